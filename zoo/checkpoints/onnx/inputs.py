"""Inputs of an ONNX graph: names, dynamic axes, and seeded examples of any batch size and length."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.models.base import Model
from zoo.models.bridge.model import Bridge
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.preprocessing.modality import Modality, of_model

HOST = "lengths"  # an input of numbers on the host, which change no output
# Tokens of the waveforms that a graph is traced with: more than the windows of attention kinds.
TRACED_TOKENS, SHORT_TOKENS, LONG_TOKENS = 600, 9, 40
POINTS = (20, 45, 64)  # of clouds: the fewest and the most that are compared, and those of the traced one
IN_TORCH = "save it with zoo.save and run it in PyTorch"
REFUSED = {  # {an input of models that cannot be exported: why}
    "image_ids": "images are generated token by token, or in several steps with what is known so far; save it with "
                 "zoo.save and use zoo.generate_images",
    "edge_index": "attention along edges sorts them and sums over those of each node, by operations that ONNX does not "
                  f"have; {IN_TORCH}",
    "msa": "a graph would hold for one number of sequences and residues only, which differ between alignments; "
           f"{IN_TORCH}",
}  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """An axis of any size. least, most: sizes that the graph must hold for, None for no limit; the exporter takes 1 for
    a size of its own, so that it is compared instead."""

    label: str
    least: int = 2
    most: int | None = None


@dataclass(frozen=True)
class Part:
    """The inputs of one modality: `names` is {name in the model of that modality: name in the graph}.

    lengths: the shortest and the longest that are compared, and the one that the graph is traced with; empty where the
    input has one size (images, spectrograms). limit: the longest input that the model takes, None for any.
    places: (image token, tokens of an image) of texts that begin with an image, None for others. same_rows: whether its
    examples have as many rows as those of the other inputs, as images and the texts about them.
    """

    modality: Modality
    config: Any
    names: dict[str, str]
    axes: tuple[str, ...]
    lengths: tuple[int, ...]
    limit: int | None
    places: tuple[int, int] | None = None
    same_rows: bool = False

    def ranges(self) -> dict[int, Axis]:
        """The axes of its inputs."""
        found = {i: Axis(label, self.lengths[0], self.limit) for i, label in enumerate(self.axes) if i}
        return {0: Axis(self.axes[0]), **found}

    def main_rows(self, rows: int, generator: torch.Generator) -> Tensor:
        """Rows of the main input."""
        pairs = [self.modality.example(self.config, generator) for _ in range((rows + 1) // 2)]
        return torch.cat(pairs)[:rows]

    def examples(self, rows: int, length: int, seed: int) -> dict[str, Tensor]:
        """Seeded rows; of every three, one has no padding, one is padded at its end and one at its start."""
        generator = torch.Generator().manual_seed(seed)
        main = self.main_rows(rows, generator)
        if not self.lengths:
            name = next(name for name in self.modality.main_inputs if name in self.names)
            return {self.names[name]: main}
        copies = -(-length // main.shape[1])
        if main.ndim == 2:
            main = main.repeat(1, copies)[:, -length:].contiguous()  # the last token stays the last
        else:  # points, none of which is there twice
            main = torch.cat([main, *(self.main_rows(rows, generator) for _ in range(copies - 1))], 1)[:, :length]
        real = torch.ones(rows, length, dtype=torch.long)
        if "attention_mask" in self.names:
            for row in range(rows):
                words = length - (self.places[1] if self.places else 0)
                padded = (words // 3 + row) % max(words // 2, 1)
                if (row + seed) % 3 == 1:
                    main[row], real[row, length - padded :] = main[row].roll(-padded, 0), 0
                elif (row + seed) % 3 == 2:
                    real[row, :padded] = 0
            pad = getattr(self.config, "pad_token_id", None)
            main[real == 0] = pad if pad is not None and 0 <= pad < self.config.vocab_size else 0
        if self.places is not None:
            token, count = self.places
            main[main == token] = (token + 1) % self.config.vocab_size
            main[(real == 1) & (real.cumsum(1) <= count)] = token
        found = {self.modality.main_input: main, "attention_mask": real}
        if "token_type_ids" in self.names:
            found["token_type_ids"] = (torch.arange(length) >= length // 2).long().repeat(rows, 1)
        return {name: found[own] for own, name in self.names.items()}


def parts_of(model: Model) -> list[Part]:
    """The inputs of a graph by modality: all that the model takes but document_ids, which are for training, and
    lengths; of a model with a decoder beside its encoder, those of the encoder. Raises ValueError for a model of image
    tokens, of graphs or of alignments."""
    if reason := next((REFUSED[name] for name in model.inputs if name in REFUSED), None):
        raise ValueError(f"this {model.family} cannot be exported to ONNX: {reason}")
    parts, records = [], of_model(model)
    places, decodes = image_places(model), isinstance(model, EncoderDecoder) and len(records) > 1
    together = decodes or places is not None
    for record in records:
        config: Any = model.config.part_of(record.main_input)
        if model.config.parts:
            names = {own: name for own, name in record.inputs.items() if name in model.inputs and own != HOST}
            if places is not None and record.name == "text" and "token_type_ids" in model.inputs:
                names["token_type_ids"] = "token_type_ids"
        else:
            every = (*record.main_inputs, *record.inputs, "token_type_ids")
            names = {name: name for name in every if name in model.inputs and name != HOST}
        if getattr(config, "type_vocab_size", 2) < 2:  # all token types are 0
            names.pop("token_type_ids", None)
        batch = "batch" if len(records) == 1 or decodes else f"{record.name}_batch"
        if record.name == "point_cloud":
            parts.append(Part(record, config, names, (batch, "points"), POINTS, None))
        elif record.example(config, torch.Generator()).ndim != 2:
            parts.append(Part(record, config, names, (batch,), (), None, same_rows=together))
        elif hasattr(config, "samples"):
            lengths = tuple(config.samples(n) for n in (SHORT_TOKENS, LONG_TOKENS, TRACED_TOKENS))
            parts.append(Part(record, config, names, (batch, "samples"), lengths, None))
        else:
            # a CoCa pads texts that are shorter than max_length
            most, image = config.max_length - int(model.family == "coca"), places[1] if places else 0
            lengths = (min(image + 7, most), min(image + 61, most), most)
            parts.append(Part(record, config, names, (batch, "length"), lengths, most, places, together))
    return parts


def image_places(model: Model) -> tuple[int, int] | None:
    """(image token, tokens of an image) of a model whose texts have tokens in whose places its images are read; None
    for others. Raises ValueError where the number of features depends on the images, or the image tokens do not say
    what is read."""
    if not isinstance(model, Bridge):
        return None
    config, refused = model.config, f"this {model.family} cannot be exported to ONNX: "
    if config.encoder != "image" or "image_sizes" in model.inputs or config.tokens_per_item is None:
        raise ValueError(f"{refused}the number of its features depends on the size of each input; use zoo.generate")
    if config.by == "cross":
        raise ValueError(f"{refused}its texts attend to lists of images that differ between texts; use zoo.generate")
    return config.feature_token_id, config.tokens_per_item


def example_inputs(parts: list[Part], rows: int, size: int, seed: int = 0) -> dict[str, Tensor]:
    """The inputs of all parts, 1 to 9 rows; size: 0 for the shortest length, 1 for the longest compared, 2 for the
    traced one. The modalities after the first have other numbers of rows, as a graph of several takes them, unless
    their rows belong together."""
    found: dict[str, Tensor] = {}
    for i, part in enumerate(parts):
        own = 10 - rows if i and not part.same_rows else rows
        found |= part.examples(own, part.lengths[size] if part.lengths else 0, seed)
    return found
