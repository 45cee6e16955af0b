"""The inputs of a model in the units that attribution scores: tokens, patches of an image or spectrogram, frames."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from zoo.inference.optimized_model import Optimized
from zoo.inference.probabilities import require_model
from zoo.interpret.hooks import attached, eager_mode, unwrap
from zoo.interpret.token_texts import token_texts
from zoo.models.base import Model
from zoo.models.bridge.model import Bridge
from zoo.models.contrast.model import Contrastive
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.models.eval_mode import eval_mode
from zoo.models.towers import TowersModel
from zoo.nn.frontends.conv_spectrogram import STRIDE, ConvSpectrogramEmbedding
from zoo.nn.frontends.image import PatchEmbedding
from zoo.nn.frontends.packed_documents import PackedDocuments
from zoo.nn.frontends.spectrogram import SpectrogramEmbedding
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.lengths import place, right_padding
from zoo.preprocessing.modality import MODALITIES, of_inputs
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.preprocessing.text import SPECIAL, TextProcessor

OTHER_INPUTS = [name for record in MODALITIES.values() if record.files_only for name in record.main_inputs]
PADDED = 1e-4  # how far from the value of padding a frame of a spectrogram may be


@dataclass(frozen=True, eq=False)
class Part:
    """One input of a model, in n units.

    name: of the modality, or "target" for the tokens that a decoder has read. key, mask: the names of the input and of
    its attention mask in a batch (None: the model takes no mask). path: what the names of its blocks begin with, such
    as "text.". keep [B, n]: False for padding. fixed [B, n]: special tokens, which are not changed.
    words: the embedding of tokens. cells: of other inputs, the unit of each number, in the shape of a row without
    channels. time_axis: of cells; None for images, whose rows have channels before their cells. grid: (rows, columns)
    of patches. labels: the texts of tokens. places [B, n]: of patches that a decoder reads among the words of a text,
    where they stand there.
    """

    name: str
    key: str
    mask: str | None
    path: str
    keep: Tensor
    fixed: Tensor
    words: nn.Module | None = None
    cells: Tensor | None = None
    time_axis: int | None = None
    grid: tuple[int, int] | None = None
    labels: Sequence[Sequence[str]] | None = None
    places: Tensor | None = None

    @property
    def is_image(self) -> bool:
        """Whether these are patches of images [B, C, H, W]."""
        return self.cells is not None and self.time_axis is None

    @property
    def free(self) -> Tensor:
        """The units [B, n] that may be changed: neither padding nor special tokens."""
        return self.keep & ~self.fixed

    def per_number(self, of_units: Tensor) -> Tensor:
        """Values of units [R, n] -> of the numbers of the input, broadcast over channels and embeddings."""
        if self.cells is None:
            return of_units[..., None]
        spread = of_units[:, self.cells]
        return spread[:, None] if self.is_image else spread

    def per_unit(self, values: Tensor) -> Tensor:
        """Sums over the numbers of each unit: the shape of the input (or of embeddings [R, n, D]) -> [R, n]."""
        if self.cells is None:
            return values.sum(-1)
        flat = (values.sum(1) if self.is_image else values).flatten(1)
        return flat.new_zeros(len(flat), self.keep.shape[1]).index_add(1, self.cells.flatten(), flat)


@dataclass(frozen=True, eq=False)
class ScoredInputs:
    """A model with a batch on its device, of B rows, and the parts of its inputs that can be scored."""

    model: Model
    batch: dict[str, Tensor]
    parts: dict[str, Part]

    @property
    def rows(self) -> int:
        return len(next(iter(self.batch.values())))

    def part(self, name: str | None) -> Part:
        """A part by its name; None: the first. Raises ValueError if there is none of that name."""
        if name is None:
            return next(iter(self.parts.values()))
        if name not in self.parts:
            raise ValueError(f"part={name!r}: the inputs have the parts {', '.join(self.parts)}")
        return self.parts[name]

    def values(self) -> dict[str, Tensor]:
        """What gradients are taken of, float32: the embeddings of tokens [B, N, D], and other inputs themselves."""
        with torch.no_grad():
            found = {p.name: self.batch[p.key] if p.words is None else p.words(self.batch[p.key])
                     for p in self.parts.values()}  # fmt: skip
        return {name: x.detach().float() for name, x in found.items()}

    def run(
        self, rows: Tensor, values: Mapping[str, Tensor] | None = None, inputs: Mapping[str, Tensor] | None = None
    ) -> Any:
        """The output of the model for some rows [R], with `values` of parts in the place of theirs, and other
        `inputs`. In evaluation mode."""
        batch = {name: x[rows] for name, x in self.batch.items()} | dict(inputs or {})
        with ExitStack() as stack:
            stack.enter_context(eval_mode(self.model))
            stack.enter_context(eager_mode())
            for name, value in (values or {}).items():
                part = self.parts[name]
                if part.words is None:
                    batch[part.key] = value.to(self.batch[part.key].dtype)
                else:
                    stack.enter_context(replaced_words(part.words, value))
            return self.model(**batch)


def replaced_words(words: nn.Module, value: Tensor) -> AbstractContextManager[None]:
    """Context in which an embedding of tokens gives, in this thread, `value` [R, N, D]."""

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        # CLIP leaves out the tokens after the last that it reads, CoCa adds one of padding
        return torch.cat([value[:, : output.shape[1]].to(output.dtype), output[:, value.shape[1] :]], 1)

    return attached([(words.register_forward_hook, hook)])


def scored_inputs(model: Any, inputs: Any) -> ScoredInputs:
    """The batch of inputs and its parts.

    Args:
        model: A model.
        inputs: What `model.preprocess` takes, its keywords in a dict (images=, text=, audio=), or a batch. A packed
            batch (`zoo.pack`) becomes one row for each document.

    Raises: ValueError for a model or inputs that have no parts to score, and for inputs of different numbers of rows.
    """
    require_model(model)
    model = cast(Model, unwrap(model))
    if isinstance(model, Optimized):
        raise ValueError(f"the {type(model).__name__} was made by zoo.optimize and has no gradients: give the model "
                         "that it was made from")  # fmt: skip
    batch = with_decoder_start(model, as_batch(model, inputs))
    if (documents := batch.pop("document_ids", None)) is not None:
        if isinstance(model, Bridge) and reads_items(model, batch):
            raise ValueError("document_ids: texts with images are scored in a row for each, not packed")
        packed = PackedDocuments.of(documents)
        batch = {name: packed.take(x) for name, x in batch.items() if name != "lengths"}
        batch["attention_mask"] = packed.keep.long()
    for name, mask, main in (("lengths", "attention_mask", "input_ids"),
                             ("lengths", "attention_mask", "input_values"),
                             ("audio_lengths", "audio_attention_mask", "input_values")):  # fmt: skip
        if name in batch and mask not in batch and main in batch and mask in model.inputs:
            batch[mask] = right_padding(batch[name], batch[main]).long()
    placed = place(batch, model.inputs, next(model.parameters()))
    placed = {name: x for name, x in placed.items() if isinstance(x, Tensor) and not name.endswith("lengths")}
    found = ScoredInputs(model, placed, {part.name: part for part in find_parts(model, placed)})
    if any(len(x) != found.rows for x in placed.values()):
        sizes = ", ".join(f"{len(x)} of {name}" for name, x in placed.items())
        raise ValueError(f"{sizes}: expected as many rows of each input")
    return found


def as_batch(model: Model, inputs: Any) -> dict[str, Any]:
    """The batch of what the model's processor takes; a batch as it is. Raises ValueError for one with other names."""
    if isinstance(inputs, Mapping) and inputs and all(name in model.inputs for name in inputs):
        return dict(inputs)
    if isinstance(inputs, Mapping) and not isinstance(model.preprocess, MultimodalProcessor):
        unknown = ", ".join(repr(name) for name in inputs if name not in model.inputs) or "nothing"
        raise ValueError(
            f"the batch has {unknown}: expected inputs of {type(model).__name__}, {', '.join(model.inputs)}"
        )
    if model.preprocess is None:
        choices = " or ".join(record.processor for record in MODALITIES.values() if record.main_input in model.inputs)
        raise ValueError(f"the model has no preprocessing: give a batch {{{model.inputs[0]!r}: ...}}, or set "
                         f"model.preprocess = {choices}")  # fmt: skip
    if isinstance(inputs, Mapping):
        return dict(model.preprocess(**inputs))
    return dict(model.preprocess(inputs))


def with_decoder_start(model: Model, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch; with the first tokens of the decoder of an encoder-decoder, if it has none."""
    if not isinstance(model, EncoderDecoder) or model.decoder is None or f"{model.decoder_prefix}input_ids" in batch:
        return batch
    source = {name: batch.get(name) for name in ("input_ids", "attention_mask")}
    more = {name: x for name, x in batch.items() if name not in source and not name.endswith("lengths")}
    start = model.generation_start(source, **more)[1]
    return batch | {f"{model.decoder_prefix}input_ids": start.ids.to(next(iter(batch.values())).device)}


# --- parts ------------------------------------------------------------------------------------------------------------


def find_parts(model: Model, batch: Mapping[str, Tensor]) -> list[Part]:
    """The parts of a batch. Raises ValueError for a model whose inputs are not known."""
    if isinstance(model, Contrastive):
        present = list(model.by_tower(batch))
        if len(present) != 2:
            raise ValueError(f"the score of {type(model).__name__} is the similarity of two inputs, given "
                             f"{' and '.join(present) or 'none'}: pass {{'images': [...], 'text': [...]}}")  # fmt: skip
        return [part_of(model.tower(name), f"{name}.", model.tower_inputs(name), batch, tokenizer_of(model))
                for name in present]  # fmt: skip
    if isinstance(model, Bridge):
        return parts_of_bridge(model, batch)
    if isinstance(model, EncoderDecoder):
        prefix = model.decoder_prefix
        decoder = {own: taken for own in ("input_ids", "attention_mask") if (taken := f"{prefix}{own}") in model.inputs}
        if model.decoder is not None and "input_ids" not in decoder:
            raise ValueError(f"{type(model).__name__} with head={model.config.head!r} reads a text with both sides, "
                             "whose tokens cannot be scored apart: expected head='lm'")  # fmt: skip
        source = {name: name for name in model.inputs if name not in decoder.values()}
        parts = [part_of(model.encoder, "encoder.", source, batch, tokenizer_of(model))]
        if model.decoder is not None:
            parts.append(part_of(model.decoder, "decoder.", decoder, batch, tokenizer_of(model), "target"))
        return parts
    if isinstance(model, TowersModel):
        raise ValueError(f"{type(model).__name__} reads several inputs as one sequence, which is not scored: expected "
                         "a model of one input, a contrastive model, an encoder-decoder or one that reads images among "
                         "the words of a text")  # fmt: skip
    return [part_of(model, "", {name: name for name in model.inputs}, batch, tokenizer_of(model))]


def parts_of_bridge(model: Bridge, batch: Mapping[str, Tensor]) -> list[Part]:
    """The image or clip of each row, and its text. Raises ValueError for rows without one, or with several."""
    c, name = model.config, model.config.encoder
    text = part_of(model.text, "text.", {own: own for own in ("input_ids", "attention_mask")}, batch,
                   tokenizer_of(model))  # fmt: skip
    inside = batch["input_ids"] == (-1 if c.feature_token_id is None else c.feature_token_id)
    text.fixed.logical_or_(inside)  # the features stand there
    if not reads_items(model, batch):
        return [text]
    part = part_of(model.encoder, f"{name}.", model.tower_inputs(name), batch, None)
    counts = inside.sum(1)
    number = c.tokens_per_item or int(counts[0])
    if len(part.keep) != len(inside) or (c.feature_token_id is not None and bool((counts != number).any())):
        raise ValueError(
            f"{len(inside)} texts with {counts.tolist()} tokens of {MODALITIES[name].plural}, and {len(part.keep)} of "
            f"these: expected one in each text, of {number} tokens"
        )
    if c.by == "projector" and number == part.keep.shape[1]:
        part = replace(part, places=inside.nonzero()[:, 1].view(len(inside), -1))
    return [part, text]


def reads_items(model: Bridge, batch: Mapping[str, Any]) -> bool:
    """Whether a batch has images or clips."""
    return any(name in batch for name in MODALITIES[model.config.encoder].main_inputs)


def tokenizer_of(model: Any) -> TextProcessor | None:
    """The tokenizer among the processors of a model."""
    found = getattr(model.preprocess, "text", model.preprocess)
    return found if isinstance(found, TextProcessor) else None


def part_of(
    tower: Any,
    path: str,
    names: Mapping[str, str],
    batch: Mapping[str, Tensor],
    tokenizer: TextProcessor | None,
    name: str = "",
) -> Part:
    """The part that a model, a tower or a side of an encoder-decoder reads. names: {its input: the name in a batch}."""
    front = next((found for attribute in ("tokens", "patches", "waves")
                  if isinstance(found := getattr(tower, attribute, None), nn.Module)), None)  # fmt: skip
    mask = names.get("attention_mask")
    if isinstance(front, TextEmbedding) and names.get("input_ids") in batch:
        return text_part(front, path, names["input_ids"], mask, batch, tokenizer, name)
    main = next((own for own in OTHER_INPUTS if names.get(own) in batch), None)
    is_known = isinstance(front, PatchEmbedding | ConvSpectrogramEmbedding) or hasattr(tower, "frames")
    if main is None or not is_known:
        raise ValueError(f"{type(tower).__name__} has no tokens or patches that can be scored: expected a model of "
                         "texts, images, spectrograms or waveforms")  # fmt: skip
    key = names[main]
    x = batch[key]
    grid: tuple[int, int] | None = None
    time_axis: int | None = 0
    if isinstance(front, PatchEmbedding):
        grid = front.grid
        if x.ndim != 4 - isinstance(front, SpectrogramEmbedding):
            raise ValueError(f"{key} is {tuple(x.shape)}: expected one image of the model's size in each row")
        cells, units = patch_cells(front), grid[0] * grid[1]
        if isinstance(front, SpectrogramEmbedding):
            cells = cells.T
        else:
            time_axis = None
    elif isinstance(front, ConvSpectrogramEmbedding):
        units = front.frames // STRIDE
        cells = (torch.arange(front.frames) // STRIDE).expand(front.bins, -1)
        grid, time_axis = (1, units), 1
    else:
        units = int(tower.frames(x.shape[1]))
        step = math.prod(tower.config.conv_strides)
        cells = (torch.arange(x.shape[1]) // step).clamp(max=units - 1)
    keep = torch.ones(len(x), units, dtype=torch.bool, device=x.device)
    if mask is not None and mask in batch and x.ndim == 2:
        first = torch.arange(units, device=x.device) * math.prod(tower.config.conv_strides)
        keep = first < batch[mask].sum(1)[:, None]  # units with samples of the clip
    part = Part(name or of_inputs([main])[0].name, key, mask, path, keep, torch.zeros_like(keep),
                cells=cells.contiguous().to(x.device), time_axis=time_axis, grid=grid)  # fmt: skip
    empty = padded_frames(tower, x) if isinstance(front, SpectrogramEmbedding) else None
    if empty is not None:
        real = part.per_unit((~empty)[..., None].expand_as(x).float()) > 0
        part.keep.copy_(real)
    return part


def patch_cells(front: PatchEmbedding) -> Tensor:
    """The patch of each pixel [H, W]: where patches overlap, the one whose center is nearest."""
    steps = front.stride or front.patch_size
    lines = []
    for size, patch, step, count in zip(front.image_size, front.patch_size, steps, front.grid):
        place = (torch.arange(size) - (patch - step) / 2) / step
        lines.append(place.floor().clamp(0, count - 1).long())
    return lines[0][:, None] * front.grid[1] + lines[1]


def padded_frames(tower: Any, x: Tensor) -> Tensor | None:
    """Which frames [B, T] of spectrograms [B, T, F] are padding behind a clip; None if it is not known."""
    extractor = getattr(tower, "preprocess", None)
    if not isinstance(extractor, SpectrogramFeatureExtractor) or extractor.feature_type == "whisper":
        return None
    return (x.float() + extractor.mean / extractor.std).abs().amax(-1) < max(PADDED, torch.finfo(x.dtype).eps)


def text_part(
    front: TextEmbedding,
    path: str,
    key: str,
    mask: str | None,
    batch: Mapping[str, Tensor],
    tokenizer: TextProcessor | None,
    name: str,
) -> Part:
    """The tokens of texts, with the names of tokens if there is a tokenizer."""
    ids = batch[key]
    keep = batch[mask].bool() if mask is not None and mask in batch else torch.ones_like(ids, dtype=torch.bool)
    fixed = torch.zeros_like(keep)
    labels = None
    if tokenizer is not None:
        roles = [tokenizer.id(role) for role in SPECIAL if role != "unk"]
        fixed = torch.isin(ids, ids.new_tensor([number for number in roles if number is not None]))
        labels = [token_texts(tokenizer, row) for row in ids.tolist()]
    return Part(name or "text", key, mask, path, keep, fixed, words=front.word, labels=labels)
