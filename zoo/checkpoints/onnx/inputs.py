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
NODES = (3, 17, 9)  # of each graph
RESIDUES = (5, 40, 12)  # of alignments


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
    examples have as many rows as those of the other inputs, as images and the texts about them. lists: whether each
    row has a list of images, in another number of them in each example.
    """

    modality: Modality
    config: Any
    names: dict[str, str]
    axes: tuple[str, ...]
    lengths: tuple[int, ...]
    limit: int | None
    places: tuple[int, int] | None = None
    same_rows: bool = False
    lists: bool = False

    def ranges(self, name: str) -> dict[int, Axis]:
        """The axes of an input, by its name in the graph."""
        if name == "image_ids":
            return {0: Axis(self.axes[0])}
        found = {i: Axis(label, self.lengths[0], self.limit) for i, label in enumerate(self.axes) if i}
        if self.lists and (images := {"pixel_values": 1, "image_attention_mask": 2}.get(name)):
            found[images] = Axis("images")
        return {0: Axis(self.axes[0]), **found}

    def main_rows(self, rows: int, generator: torch.Generator) -> Tensor:
        """Rows of the main input."""
        pairs = [self.modality.example(self.config, generator) for _ in range((rows + 1) // 2)]
        return torch.cat(pairs)[:rows]

    def examples(self, rows: int, length: int, seed: int) -> dict[str, Tensor]:
        """Seeded rows; of every three, one has no padding, one is padded at its end and one at its start."""
        generator, images = torch.Generator().manual_seed(seed), 2 + seed % 3
        main = self.main_rows(rows * images if self.lists and not self.lengths else rows, generator)
        if not self.lengths:
            name = next(name for name in self.modality.main_inputs if name in self.names)
            return {self.names[name]: main.unflatten(0, (rows, images)) if self.lists else main}
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
        if "image_attention_mask" in self.names:
            found["image_attention_mask"] = torch.randint(2, (rows, length, images), generator=generator)
        if "image_ids" in self.names:
            codes = self.config.image_vocab_size + hasattr(self.config, "mask_token_id")
            found["image_ids"] = torch.randint(codes, (rows, self.config.image_length), generator=generator)
        return {name: found[own] for own, name in self.names.items()}


class GraphPart(Part):
    """The inputs of graphs, which stand one after another; the length is the number of nodes of the first one."""

    def ranges(self, name: str) -> dict[int, Axis]:
        return {int(name == "edge_index"): Axis(dict(zip(self.names, self.axes, strict=True))[name])}

    def examples(self, rows: int, length: int, seed: int) -> dict[str, Tensor]:
        """Graphs of different sizes, with edges and self-loops that are there twice and nodes without edges."""
        generator = torch.Generator().manual_seed(seed)
        sizes = torch.tensor([max(length - row % 3, 1) for row in range(rows)])
        starts = sizes.cumsum(0) - sizes
        ends = [start + torch.randint(int(size), (2, 2 * int(size)), generator=generator)
                for start, size in zip(starts, sizes, strict=True)]  # fmt: skip
        edges = torch.cat([*ends, ends[0][:, :2]], 1)
        features = self.config.in_features, self.config.edge_dim or 0
        found = {
            "node_features": torch.randn(int(sizes.sum()), features[0], generator=generator),
            "edge_index": edges,
            "edge_features": torch.randn(edges.shape[1], features[1], generator=generator),
            "graph_sizes": sizes,
        }
        return {name: found[name] for name in self.names}


class AlignmentPart(Part):
    """The inputs of alignments; the length is their number of residues."""

    def ranges(self, name: str) -> dict[int, Axis]:
        labels = self.axes if name.startswith("msa") else (self.axes[0], self.axes[2])
        return {i: Axis(label) for i, label in enumerate(labels)}

    def examples(self, rows: int, length: int, seed: int) -> dict[str, Tensor]:
        """Of every three alignments, one has no padding, one has it at its end and one has fewer sequences."""
        generator, sequences = torch.Generator().manual_seed(seed), 2 + (length + seed) % 7
        msa = torch.randint(self.config.vocab_size, (rows, sequences, length), generator=generator)
        real, kept = torch.ones(rows, length, dtype=torch.long), torch.ones_like(msa)
        for row in range(rows):
            if (row + seed) % 3 == 1:
                real[row, length - length // 3 :] = 0
            elif (row + seed) % 3 == 2:
                kept[row, -1] = 0
        found = {"msa": msa, "msa_mask": kept * real[:, None], "attention_mask": real}
        return {name: found[own] for own, name in self.names.items()}


def parts_of(model: Model) -> list[Part]:
    """The inputs of a graph by modality: all that the model takes but document_ids, which are for training, and
    lengths; of a model with a decoder beside its encoder, those of the encoder. Raises ValueError for a model whose
    inputs a graph cannot have."""
    if "edge_index" in model.inputs:
        return [graph_part(model)]
    parts: list[Part] = []
    records = of_model(model)
    places, decodes = image_places(model), isinstance(model, EncoderDecoder) and len(records) > 1
    lists = isinstance(model, Bridge) and model.config.by == "cross"
    together = decodes or lists or places is not None
    for record in records:
        config: Any = model.config.part_of(record.main_input)
        joint = record.inputs if model.config.parts else {}
        every = {own: joint.get(own, own) for own in (*record.main_inputs, *record.inputs, *record.extra_inputs)}
        names = {own: name for own, name in every.items() if name in model.inputs and own != HOST}
        if getattr(config, "type_vocab_size", 2) < 2:  # all token types are 0
            names.pop("token_type_ids", None)
        batch = "batch" if len(records) == 1 or decodes or lists else f"{record.name}_batch"
        if record.name == "alignment":
            axes = (batch, "sequences", "residues")
            parts.append(AlignmentPart(record, config, names, axes, RESIDUES, None))
        elif record.name == "point_cloud":
            parts.append(Part(record, config, names, (batch, "points"), POINTS, None))
        elif record.example(config, torch.Generator()).ndim != 2:
            parts.append(Part(record, config, names, (batch,), (), None, None, together, lists))
        elif hasattr(config, "samples"):
            lengths = tuple(config.samples(n) for n in (SHORT_TOKENS, LONG_TOKENS, TRACED_TOKENS))
            parts.append(Part(record, config, names, (batch, "samples"), lengths, None, None, together))
        else:
            # a CoCa pads texts that are shorter than max_length, and models of image tokens pad all to it
            most, image = config.max_length - int(model.family == "coca"), places[1] if places else 0
            # the trace takes a length that is a size of the model, too, for this size
            traced = most - int("image_ids" in names or most == config.width)
            lengths = (min(image + 7, most), min(image + 61, most), traced)
            parts.append(Part(record, config, names, (batch, "length"), lengths, most, places, together, lists))
    return parts


def graph_part(model: Model) -> Part:
    """The inputs of a model of graphs: `graph_sizes` where its outputs depend on them."""
    (record,), config = of_model(model), model.config
    if getattr(config, "structure", "edges") != "edges":
        raise ValueError(
            f"this {model.family} cannot be exported to ONNX: structure={config.structure!r} searches for paths in as "
            "many steps as the graph needs; use structure='edges', or run the model in PyTorch"
        )
    axes = {"node_features": "nodes", "edge_index": "edges"}
    if config.edge_dim is not None:
        axes["edge_features"] = "edges"
    if config.head not in ("token", None):
        axes["graph_sizes"] = "batch"
    return GraphPart(record, config, dict(zip(axes, axes, strict=True)), tuple(axes.values()), NODES, None)


def image_places(model: Model) -> tuple[int, int] | None:
    """(image token, tokens of an image) of a model whose texts have tokens in whose places its images are read; None
    for others. Raises ValueError where the number of features depends on the images, or the image tokens do not say
    what is read."""
    if not isinstance(model, Bridge):
        return None
    config, refused = model.config, f"this {model.family} cannot be exported to ONNX: "
    if config.by == "cross":
        if config.encoder != "image":
            raise ValueError(f"{refused}its texts attend to clips by their order in the batch; use zoo.generate")
        return None
    if "image_sizes" in model.inputs or config.tokens_per_item is None:
        raise ValueError(f"{refused}the number of its features depends on the size of each input; use zoo.generate")
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
