"""What a model computes for the inputs of a page, and what the positions of its maps are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.inference.generation.generate import generate
from zoo.interpret.explore.image_tokens import with_image_tokens
from zoo.interpret.explore.positions import (
    Part,
    Patches,
    Positions,
    Tokens,
    numbered,
    of_alignment,
    of_frames,
    of_graph,
    of_image,
    of_points,
    of_spectrogram,
)
from zoo.interpret.explore.tiles import of_tiles
from zoo.interpret.row_losses import label_ids
from zoo.interpret.token_texts import token_texts
from zoo.models.bridge.model import Bridge
from zoo.models.coca.model import CoCa
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.models.gemma3.model import PooledProjector
from zoo.models.text_to_image import TextToImageModel
from zoo.models.whisper.model import Whisper
from zoo.models.whisper.transcript_tokens import TranscriptTokens
from zoo.nn.lengths import place
from zoo.preprocessing.audio import name_of
from zoo.preprocessing.modality import MODALITIES, of_model
from zoo.preprocessing.multimodal import modality_of
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.preprocessing.tiled_image import TiledImageProcessor

MAX_NEW_TOKENS = 64  # of a text that the model writes itself
TITLE_LENGTH = 200  # characters of a text in the title
MEL_BINS = 64  # of the spectrogram that is shown of a waveform


@dataclass(frozen=True)
class PreparedInputs:
    """A batch of one row, and the positions of the stacks that compute it, by the paths of their towers: "" of a model
    with one stack, "image", "text", "encoder", "decoder"; "features" are what cross-attention reads of an image, if not
    the positions of its encoder. title: the inputs in short."""

    batch: dict[str, Tensor]
    positions: dict[str, Positions] = field(default_factory=dict)
    title: str = ""

    def around(self, node: int | str | None, count: int | None) -> "PreparedInputs":
        """Of a graph, the `count` nodes nearest to a node. Raises ValueError without a graph or such a node."""
        graphs = {name: own.nodes for name, own in self.positions.items() if own.nodes}
        if node is not None and not graphs:
            raise ValueError(f"around={node!r} is a node of a graph, and the model takes other inputs: omit it")
        centered = {name: own if node is None else own.around(node) for name, own in graphs.items()}
        return replace(self, positions=self.positions | {
            name: Positions((nodes,)).first(count) for name, nodes in centered.items()
        })  # fmt: skip


def prepare(model: Any, inputs: Any) -> PreparedInputs:
    """The batch of the inputs, see `explore`, and what its positions are.

    Raises: ValueError for inputs that the model does not take, or a model without preprocessing; AudioError and others
        as in `model.preprocess`.
    """
    if model.preprocess is None:
        raise ValueError(
            f"{type(model).__name__} has no preprocessing, so it cannot read an input: set model.preprocess, such as "
            f"{of_model(model)[0].processor}"
        )
    items = by_modality(model, inputs)
    title = " | ".join(short(item) for item in items.values())
    if isinstance(model, EncoderDecoder) and model.decoder is not None:
        batch, positions = of_encoder_decoder(model, items)
    elif isinstance(model, Bridge):
        batch, positions = of_bridge(model, items)
    elif isinstance(model, TextToImageModel):
        if "text" not in items:
            raise ValueError("the model reads a text, with or without its image: give one, too")
        text = one_row(model.preprocess(items["text"]))
        batch, joint = with_image_tokens(model, text, items.get("image"))
        positions = {"": joint}
    elif len(items) == 1 and not hasattr(model, "modalities"):
        name, item = next(iter(items.items()))
        batch = one_row(model.preprocess(item), name)
        positions = positions_of_parts(model, name, item, batch)
    else:
        batch = one_row(model.preprocess(**{MODALITIES[name].argument: item for name, item in items.items()}))
        positions = {}
        for name, item in items.items():
            own = {tower: batch[key] for tower, key in model.tower_inputs(name).items() if key in batch}
            positions[name] = positions_of(model.tower(name), getattr(model.preprocess, name), name, item, own)
    return PreparedInputs(batch, positions, title)


# --- Inputs ----------------------------------------------------------------------------------------------------------


def positions_of_parts(model: Any, name: str, item: Any, batch: dict[str, Tensor]) -> dict[str, Positions]:
    """{part of the model: the positions of its maps} of one item."""
    if name == "point_cloud":
        parts = model.places(batch["points"]).items()
        return {part: of_points(own, batch["points"][0, :, :3]) for part, own in parts}
    if name == "alignment":
        return of_alignment(batch["msa"][0])
    return {"": positions_of(model, model.preprocess, name, item, batch)}


def by_modality(model: Any, inputs: Any) -> dict[str, Any]:
    """{"image", "text", "audio", "target" or "language": item} of the inputs of `explore`."""
    taken = [record.name for record in of_model(model)]
    if isinstance(model, TextToImageModel):
        taken.append("image")  # whose tokens it reads
    writes = isinstance(model, EncoderDecoder) and model.decoder is not None
    further = ["target"] * writes + ["language"] * isinstance(model, Whisper)
    names = {**{MODALITIES[name].argument: name for name in taken}, **{name: name for name in further}}
    if isinstance(inputs, Mapping) and inputs and "array" not in inputs:
        if unknown := [name for name in inputs if name not in names]:
            raise ValueError(f"the model takes no {unknown[0]!r}: expected {', '.join(map(repr, names))}")
        return {names[name]: item for name, item in inputs.items()}
    items = list(inputs) if isinstance(inputs, list) else [inputs]
    if writes and isinstance(inputs, tuple) and len(inputs) == 2 and isinstance(inputs[1], str):
        items = list(inputs)
    found: dict[str, Any] = {}
    for item in items:
        name = taken[0] if len(taken) == 1 and not found else modality_of(item)
        if name == "text" and writes and (name in found or name not in taken):
            name = "target"
        if name not in (*taken, "target"):
            raise ValueError(f"{short(item)} is of the modality {name}, and {type(model).__name__} takes "
                             f"{' and '.join(MODALITIES[one].plural for one in taken)}")  # fmt: skip
        if name in found:
            raise ValueError(f"a page shows one input, given several of the modality {name}: {short(found[name])} and "
                             f"{short(item)}")  # fmt: skip
        found[name] = item
    if not found:
        raise ValueError("no input given: expected a text, an image, an audio clip, or a list with one of each")
    return found


def short(item: Any) -> str:
    """An item in a title."""
    if isinstance(item, tuple) and all(isinstance(each, str) for each in item):
        return " | ".join(map(short, item))
    if isinstance(item, Path):
        return item.name
    if not isinstance(item, str):
        return MODALITIES[modality_of(item)].unnamed
    text = Path(item).name if modality_of(item) != "text" else " ".join(item.split())
    return text if len(text) <= TITLE_LENGTH else f"{text[:TITLE_LENGTH]} ..."


def one_row(batch: dict[str, Tensor], name: str = "") -> dict[str, Tensor]:
    """The batch. Raises ValueError for one of several inputs."""
    rows = {len(values) for values in batch.values()}
    if "graph_sizes" in batch:  # the nodes of all graphs are one row
        rows = {len(batch["graph_sizes"])}
    if rows != {1}:
        raise ValueError(f"the {name or 'input'} became {max(rows)} rows: a page shows one input")
    return batch


# --- Positions of one stack ------------------------------------------------------------------------------------------


def positions_of(tower: Any, processor: Any, name: str, item: Any, batch: Mapping[str, Tensor]) -> Positions:
    """The positions of a stack that reads one modality. batch: under the names of the tower."""
    if name in ("graph", "molecule"):
        return of_graph(processor.load(item).node_names(), batch["edge_index"])
    if MODALITIES[name].strings:
        return of_text(processor, batch["input_ids"], batch.get("attention_mask"))
    if name == "point_cloud":
        return of_points(batch["points"][0, :, :3], batch["points"][0, :, :3])
    if name == "image":
        return of_image(tower.patches if hasattr(tower, "patches") else tower.tokens, processor.pixels(item))
    if hasattr(tower, "patches"):
        return of_spectrogram(tower.patches, processor, batch["input_values"][0])
    return of_waveform(tower, processor, batch["input_values"][0])


def of_text(processor: Any, ids: Tensor, mask: Tensor | None = None) -> Positions:
    """The tokens of a text [1, N], without padding behind them."""
    total = count = ids.shape[1]
    if mask is not None and bool(mask[0].any()):
        count = int(mask[0].nonzero().max()) + 1
    return Positions((Tokens(token_texts(processor, ids[0, :count].tolist())),), total)


def of_waveform(tower: Any, processor: Any, wave: Tensor) -> Positions:
    """The positions of wav2vec 2.0 and the like over time, over a spectrogram of their own input [S]."""
    rate, count = processor.sampling_rate, int(tower.frames(len(wave)))
    shown = SpectrogramFeatureExtractor(feature_type="log_mel", sampling_rate=rate, num_mel_bins=MEL_BINS, mean=0.0,
                                        std=1.0, frames=math.ceil(len(wave) / (rate // 100)) + 1)  # fmt: skip
    values = shown.batch([wave.float()])["input_values"][0]
    frames = max(1, min(len(values), len(wave) * 100 // rate))
    end = min(1.0, count * math.prod(tower.config.conv_strides) / len(wave))
    return of_frames(values[:frames], shown, len(wave) / rate, count, count, end)


# --- Models of several stacks ----------------------------------------------------------------------------------------


def of_encoder_decoder(model: Any, items: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Positions]]:
    """The batch of an encoder-decoder with its target text, the one that it writes if none is given.

    Raises: ValueError without an input of the encoder.
    """
    processor = model.preprocess
    source = of_model(model)[0].name
    if source not in items:
        raise ValueError(
            f"the model reads {MODALITIES[source].plural}: give one, with or without the text that it writes"
        )
    item = items[source]
    if isinstance(model, Whisper):
        wave = processor.load(item, name_of(item, 0), None)
        batch = processor((wave, processor.sampling_rate))
        encoder = of_whisper(processor, batch["input_features"], len(wave))
        decoder = processor.text_processor
    elif source == "image":
        batch = one_row(processor(images=item))
        encoder, decoder = positions_of(model.encoder, processor.image, "image", item, batch), processor.text
    else:
        batch = one_row(processor(item), source)
        encoder = of_text(processor, batch["input_ids"], batch.get("attention_mask"))
        decoder = processor.for_targets()
    options = {"language": items["language"]} if "language" in items else {}
    target = items.get("target", items.get("text") if source != "text" else None)
    if target is None:
        placed = place(batch, (), next(model.parameters()))  # generate takes no lengths beside the mask
        written = generate(model, **placed, num_beams=1, max_new_tokens=written_limit(model), **options)
        ids = written[:, :-1] if written.shape[1] > 1 else written
    else:
        ids = torch.tensor([target_ids(model, target, **options)])
    batch[f"{model.decoder_prefix}input_ids"] = ids.cpu()
    tokens = of_text(decoder, ids)
    positions = {"encoder": encoder, "decoder": tokens}
    return batch, positions | of_coca(model, encoder, tokens)


def of_coca(model: Any, encoder: Positions, tokens: Positions) -> dict[str, Positions]:
    """Of CoCa the text tower, whose class token stands behind one of padding, and what its decoder attends to: the
    pooled image, or without a pooler the patches. Nothing for other models."""
    if not isinstance(model, CoCa):
        return {}
    behind = ("[PAD]",) * (len(tokens) < model.config.max_length) + ("[CLS]",)
    queries = model.config.pooler_queries
    features = Positions(encoder.parts[-1:]) if queries is None else numbered(queries - 1, "pooled")
    return {"text": Positions((*tokens.parts, Tokens(behind))), "features": features}


def written_limit(model: Any) -> int:
    room: int = model.config.part_of(f"{model.decoder_prefix}input_ids").max_length
    return max(1, min(MAX_NEW_TOKENS, room // 2))


def target_ids(model: Any, text: str, language: str = "") -> list[int]:
    """The tokens that the decoder reads of a target text, from its start token on. language: of it, for Whisper."""
    if isinstance(model, Whisper):
        encoder = TranscriptTokens.of(model, language)
        return [encoder.start, *encoder.encode(text)[:-1]]
    processor = getattr(model.preprocess, "text", model.preprocess)
    if processor is None:
        raise ValueError("the model has no tokenizer for a target text: omit it")
    if isinstance(model, CoCa):
        found: list[int] = processor(text)["input_ids"][0].tolist()
        return found
    return [model.config.decoder_start_token_id, *label_ids(model, text)[:-1]]


def of_whisper(processor: Any, features: Tensor, samples: int) -> Positions:
    """The positions of Whisper's encoder that are of the clip, not of the silence behind it. features: [1, F, T]."""
    total = features.shape[2] // 2
    count = max(1, min(total, math.ceil(total * samples / processor.max_samples)))
    seconds = 2 * count * processor.frame_shift / 1000
    return of_frames(features[0, :, : 2 * count].T, processor, seconds, count, total)


def of_bridge(model: Any, items: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Positions]]:
    """The batch of a model that reads an image or a clip among the words of a text."""
    processor, name = model.preprocess, model.preprocess.encoder
    if "text" not in items:
        raise ValueError(f"the model reads a text, with or without {MODALITIES[name].plural}: give one, too")
    text, item = items["text"], items.get(name)
    if item is None:
        batch = one_row(processor(text=text))
        return batch, {"text": of_text(processor.text, batch["input_ids"], batch.get("attention_mask"))}
    (text,) = processor.with_token([text], 1)
    text = text if processor.token in text else processor.marked(text, 1)
    batch = one_row(processor(text=text, **{MODALITIES[name].argument: [item]}))
    own = {tower: batch[key] for tower, key in model.tower_inputs(name).items() if key in batch}
    ids = batch["input_ids"]
    tokens = of_text(processor.text, ids, batch.get("attention_mask"))
    inside = ids[0] == model.config.feature_token_id
    if isinstance(getattr(processor, name), TiledImageProcessor):
        fields, read = of_tiles(model.tower(name), getattr(processor, name), item)
        return batch, {name: fields, "text": among_words(tokens, read, inside)}
    fields = positions_of(model.tower(name), getattr(processor, name), name, item, own)
    text_with_fields = with_fields(tokens, fields, inside, model.connector)
    return batch, {name: fields, "text": text_with_fields, **of_connector(model.config, fields)}


def of_connector(config: Any, fields: Positions) -> dict[str, Positions]:
    """The features that gated cross-attention reads, and the queries and keys of a resampler."""
    if config.by == "projector":
        return {}
    features = Positions(fields.parts[-1:]) if config.drop_prefix else fields
    if config.resampler_tokens is None:
        return {"features": features}
    latents = numbered(config.resampler_tokens, "latent")
    path = "connector" if config.by == "cross" else "connector.resampler"
    return {"features": latents, path: latents, f"{path} keys": Positions((*features.parts, *latents.parts))}


def with_fields(tokens: Positions, fields: Positions, inside: Tensor, connector: Any) -> Positions:
    """The tokens of a text with the patches of its image at their places, or with the rectangles of patches that the
    connector makes one token of."""
    patches = fields.parts[-1]
    if not isinstance(patches, Patches):
        return tokens
    if isinstance(connector, PooledProjector):
        rows, columns = (count // step for count, step in zip(patches.grid, connector.kernel))
        patches = replace(patches, grid=(rows, columns))
    return among_words(tokens, [patches], inside)


def among_words(tokens: Positions, patches: Sequence[Patches], inside: Tensor) -> Positions:
    """The tokens of a text with patches in the place of those that are `inside` [N]; the tokens alone if the numbers
    differ."""
    places = inside.nonzero().flatten().tolist()
    if not places or sum(map(len, patches)) != len(places):
        return tokens
    texts = [text for part in tokens.parts if isinstance(part, Tokens) for text in part.texts]
    before, after = texts[: places[0]], texts[places[-1] + 1 :]
    parts: tuple[Part, ...] = (Tokens(tuple(before)), *patches, Tokens(tuple(after)))
    return Positions(tuple(part for part in parts if len(part)), tokens.total)
