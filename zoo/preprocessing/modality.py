"""One record per modality: what code outside the packages of a modality knows about it.

Prediction, embedding, verification, HTML pages, model cards and the command line read these records instead of
branching on the modality. A new modality is a front end (`zoo/nn/frontends`), its processor here, for recipes its data
package, and one entry of `MODALITIES`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.preprocessing import alignment, audio_io, display, example_inputs, fasta, graph_files, image_io, point_cloud_io
from zoo.preprocessing.alignment_processor import (
    AlignmentProcessor,
    alignment_html,
    load_alignment,
    plot_alignment,
)
from zoo.preprocessing.graph import GraphProcessor, is_graph, join_batches, load_graph
from zoo.preprocessing.graph_display import graph_html, plot_graph
from zoo.preprocessing.image import ImageProcessor
from zoo.preprocessing.marian import MarianProcessor
from zoo.preprocessing.molecule import MoleculeProcessor, read_smiles_file
from zoo.preprocessing.molecule_display import molecule_html, plot_molecule
from zoo.preprocessing.point_cloud import PointCloudProcessor, cloud_html, is_cloud, load_cloud, plot_cloud
from zoo.preprocessing.protein import ProteinProcessor
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tiled_image import TiledImageProcessor
from zoo.preprocessing.waveform import WaveformFeatureExtractor
from zoo.preprocessing.whisper import WhisperProcessor


@dataclass(frozen=True, kw_only=True)
class Modality:
    """Description of a modality.

    name: also that of its tower in multi-tower models ("image"). plural: for messages. family: `Family.modality`.
    inputs: {name in a batch: name in a batch of a multi-tower model}; the first is the main input. alternatives: other
    names of the main input, which some families have. extra_inputs: that some families have beside it.
    argument: the keyword of `MultimodalProcessor`. options: keywords of one call of its processor.
    suffixes: of its files, in lower case. folder_file: name of the file that a folder has which is one item.
    join: the batch of several batches, where it has no row for each item, as of graphs.
    unnamed: name of an item without a name in messages. strings: whether an item is a string, as a text is; of other
    modalities a string is a path.
    is_item: whether an object in memory is one item. load: reads an item from a path. records: of files that hold
    several items, reads (name, item) of each.
    example: (config, generator) -> two rows of the main input. describe: config -> description of the input.
    pipelines: {head: task name on the Hugging Face Hub}. pipelines_with_text: those of models that read texts, too, by
    their head or "contrastive".
    html, plot: render one item in HTML and with matplotlib; see `display.py`.
    templates: prompts for zero-shot classification, with {} for the class name.
    processors: {kind in config.json: class}. processor: code that creates one, for messages. transformers_processor:
    "tokenizer", "feature_extractor", "image_processor", or empty. sample: input of a usage example.
    """

    name: str
    plural: str
    family: str
    inputs: Mapping[str, str]
    alternatives: tuple[str, ...] = ()
    extra_inputs: tuple[str, ...] = ()
    argument: str
    options: tuple[str, ...] = ()
    suffixes: tuple[str, ...]
    unnamed: str
    is_item: Callable[[Any], bool]
    load: Callable[[Path], Any]
    records: Callable[[Path], list[tuple[str, Any]]] | None = None
    example: Callable[[Any, torch.Generator], Tensor]
    describe: Callable[[Any], str]
    html: Callable[[Any, str], str]
    plot: Callable[[Any, Any], None]
    pipelines: Mapping[str | None, str] = field(default_factory=dict)
    pipelines_with_text: Mapping[str | None, str] = field(default_factory=dict)
    templates: tuple[str, ...] = ()
    processors: Mapping[str, Any]
    processor: str
    sample: str
    transformers_processor: str = ""
    folder_file: str = ""
    strings: bool = False
    join: Callable[[Sequence[Mapping[str, Tensor]]], dict[str, Tensor]] | None = None

    @property
    def files_only(self) -> bool:
        """Whether a string is always a file path."""
        return not self.strings

    @property
    def noun(self) -> str:
        """The word for an item: "image", "audio clip", "point cloud"."""
        return self.unnamed.split(" ", 1)[1]

    @property
    def file_noun(self) -> str:
        """The word for its files: "image file", "audio file"."""
        return f"{self.noun.removesuffix(' clip')} file"

    @property
    def main_input(self) -> str:
        return next(iter(self.inputs))

    @property
    def main_inputs(self) -> tuple[str, ...]:
        """All names of the main input."""
        return (self.main_input, *self.alternatives)


def _describe_audio(config: Any) -> str:
    if hasattr(config, "mel_bins") and hasattr(config, "frames"):
        return f"{config.frames:,} frames of {config.mel_bins} mel bins, texts of {config.max_length:,} tokens"
    if hasattr(config, "mel_bins"):
        return f"{config.max_length:,} frames of {config.mel_bins} mel bins, patch {config.patch_size}"
    return f"samples, a token every {math.prod(config.conv_strides)}"


def _is_clip(item: Any) -> bool:
    """(waveform, sampling rate), the bytes of a file, or {"array": ..., "sampling_rate": ...}."""
    return isinstance(item, bytes | Mapping) or (
        isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], int | float)
    )


def _is_image(item: Any) -> bool:
    """A PIL image, an array or a tensor, but not a point cloud."""
    is_array = hasattr(item, "shape") and not isinstance(item, str | Path)
    return hasattr(item, "convert") or (is_array and not is_cloud(item))


MODALITIES: dict[str, Modality] = {
    "image": Modality(
        name="image",
        plural="images",
        family="vision",
        inputs={"pixel_values": "pixel_values"},
        argument="images",
        suffixes=image_io.SUFFIXES,
        unnamed="an image",
        is_item=_is_image,
        load=display.open_image,
        example=example_inputs.pixel_values,
        describe=lambda config: f"{config.image_size} px, patch {config.patch_size}",
        html=display.image_html,
        plot=display.plot_image,
        pipelines={"classify": "image-classification"},
        pipelines_with_text={"contrastive": "zero-shot-image-classification", "lm": "image-text-to-text"},
        templates=(
            "a picture of a {}.", "a photograph that shows a {}.", "here you see a {}.",
            "the {} in the middle of the picture.",
            "a {} from close by.", "a {} far away.", "a small {}.", "a big {}.", "a part of a {}.", "more than one {}.",
            "a dim photograph of a {}.", "a bright photograph of a {}.", "a blurred photograph of a {}.",
            "a drawing of a {}.", "a painted {}.", "{}",
        ),
        processors={"image": ImageProcessor, "tiles": TiledImageProcessor},
        processor="zoo.preprocessing.image.ImageProcessor(...)",
        sample="image.png",
        transformers_processor="image_processor",
    ),
    "text": Modality(
        name="text",
        plural="texts",
        family="text",
        inputs={"input_ids": "input_ids", "attention_mask": "attention_mask", "lengths": "lengths"},
        extra_inputs=("token_type_ids", "image_attention_mask", "image_ids"),
        argument="text",
        options=("truncate", "max_length", "padding", "multiple"),
        suffixes=(".txt",),
        unnamed="a text",
        is_item=lambda item: isinstance(item, str),
        load=display.read_text,
        example=example_inputs.input_ids,
        describe=lambda config: f"{config.max_length:,} tokens of {config.vocab_size:,}",
        html=display.text_html,
        plot=display.plot_text,
        pipelines={
            "classify": "text-classification", "token": "token-classification", "qa": "question-answering",
            "masked_lm": "fill-mask", "lm": "text-generation", "pool": "feature-extraction",
        },
        processors={"text": TextProcessor, "marian": MarianProcessor},
        processor="zoo.preprocessing.text.TextProcessor(...) or zoo.preprocessing.tokenizer_training.train(...)",
        sample="a text",
        transformers_processor="tokenizer",
        strings=True,
    ),
    "audio": Modality(
        name="audio",
        plural="audio clips",
        family="audio",
        inputs={"input_values": "input_values", "attention_mask": "audio_attention_mask", "lengths": "audio_lengths"},
        alternatives=("input_features",),
        argument="audio",
        options=("sampling_rate", "resample", "too_long"),
        suffixes=audio_io.SUFFIXES,
        unnamed="an audio clip",
        is_item=_is_clip,
        load=audio_io.read,
        example=example_inputs.input_values,
        describe=_describe_audio,
        html=display.audio_html,
        plot=display.plot_audio,
        pipelines={
            "classify": "audio-classification", "ctc": "automatic-speech-recognition",
            "lm": "automatic-speech-recognition",
        },
        pipelines_with_text={"lm": "audio-text-to-text"},
        templates=(
            "the sound of {}.", "a recording of {}.", "here you hear {}.", "{} close to the microphone.",
            "{} in the distance.", "a noisy recording of {}.", "somebody says {}.", "{}",
        ),
        processors={
            "spectrogram": SpectrogramFeatureExtractor, "waveform": WaveformFeatureExtractor,
            "whisper": WhisperProcessor,
        },
        processor="zoo.preprocessing.spectrogram.SpectrogramFeatureExtractor(...) or "
        "zoo.preprocessing.waveform.WaveformFeatureExtractor(...)",
        sample="audio.wav",
        transformers_processor="feature_extractor",
    ),
    "point_cloud": Modality(
        name="point_cloud",
        plural="point clouds",
        family="point_cloud",
        inputs={"points": "points", "attention_mask": "points_attention_mask", "lengths": "points_lengths"},
        argument="points",
        options=("num_points",),
        suffixes=point_cloud_io.SUFFIXES,
        unnamed="a point cloud",
        is_item=is_cloud,
        load=load_cloud,
        example=example_inputs.points,
        describe=lambda config: f"any number of points of {config.in_features} numbers",
        html=cloud_html,
        plot=plot_cloud,
        processors={"point_cloud": PointCloudProcessor},
        processor="zoo.preprocessing.point_cloud.PointCloudProcessor(...)",
        sample="cloud.ply",
    ),
    "graph": Modality(
        name="graph",
        plural="graphs",
        family="graph",
        inputs={name: name for name in ("node_features", "edge_index", "edge_features", "graph_sizes")},
        argument="graphs",
        suffixes=graph_files.SUFFIXES,
        folder_file=graph_files.NODES,
        unnamed="a graph",
        is_item=is_graph,
        load=load_graph,
        example=example_inputs.node_features,
        describe=lambda config: f"any number of nodes of {config.in_features} numbers",
        html=graph_html,
        plot=plot_graph,
        join=join_batches,
        processors={"graph": GraphProcessor},
        processor="zoo.preprocessing.graph.GraphProcessor(...)",
        sample="graph.npz",
    ),
    "alignment": Modality(
        name="alignment",
        plural="alignments",
        family="alignment",
        inputs={"msa": "msa", "msa_mask": "msa_mask", "attention_mask": "msa_attention_mask"},
        argument="alignments",
        suffixes=alignment.SUFFIXES,
        unnamed="an alignment",
        is_item=lambda item: isinstance(item, alignment.Alignment),
        load=load_alignment,
        example=example_inputs.alignments,
        describe=lambda config: "alignments of any number of sequences and residues",
        html=alignment_html,
        plot=plot_alignment,
        processors={"alignment": AlignmentProcessor},
        processor="zoo.preprocessing.alignment_processor.AlignmentProcessor()",
        sample="family.a3m",
    ),
    "protein": Modality(
        name="protein",
        plural="proteins",
        family="protein",
        inputs={"input_ids": "input_ids", "attention_mask": "attention_mask", "lengths": "lengths"},
        argument="proteins",
        options=("truncate", "max_length", "padding", "multiple"),
        suffixes=fasta.SUFFIXES,
        unnamed="a protein",
        is_item=lambda item: False,  # a string in memory is a text, unless a model reads proteins
        load=fasta.read_sequence,
        records=fasta.named_sequences,
        example=example_inputs.input_ids,
        describe=lambda config: f"{config.max_length:,} tokens of {config.vocab_size:,}",
        html=display.protein_html,
        plot=display.plot_protein,
        pipelines={
            "classify": "text-classification", "token": "token-classification", "masked_lm": "fill-mask",
            "pool": "feature-extraction",
        },
        processors={"protein": ProteinProcessor},
        processor="zoo.preprocessing.protein.ProteinProcessor()",
        sample="MKTAYIAKQR<mask>ISFVKSHFSRQ",
        transformers_processor="tokenizer",
        strings=True,
    ),
    "molecule": Modality(  # graphs that are given as SMILES strings
        name="molecule",
        plural="molecules",
        family="graph",
        inputs={name: name for name in ("node_features", "edge_index", "edge_features", "graph_sizes")},
        argument="molecules",
        suffixes=(".smi",),
        unnamed="a molecule",
        is_item=lambda item: False,  # a string in memory is a text, unless a model reads molecules
        load=read_smiles_file,
        example=example_inputs.node_features,
        describe=lambda config: f"any number of atoms of {config.in_features} numbers",
        html=molecule_html,
        plot=plot_molecule,
        join=join_batches,
        processors={"molecule": MoleculeProcessor},
        processor="zoo.preprocessing.molecule.MoleculeProcessor()",
        sample="CCO",
        strings=True,
    ),
}  # fmt: skip


def of_family(modality: str) -> Modality | None:
    """The record for a `Family.modality`; None for multi-tower models."""
    return next((record for record in MODALITIES.values() if record.family == modality), None)


def of_inputs(inputs: Sequence[str], family: str | None = None) -> list[Modality]:
    """The modalities whose main input is among the inputs of a model, in the order of MODALITIES.

    family: the `Family.modality` of the model, whose record is the one of its input; without it, an input of several
    modalities, such as input_ids of texts and proteins, is that of the first.
    """
    found: dict[str, Modality] = {}
    for record in sorted(MODALITIES.values(), key=lambda record: record.family != family):
        for name in record.main_inputs:
            if name in inputs:
                found.setdefault(name, record)
    return [record for record in MODALITIES.values() if record in found.values()]


def of_model(model: Any) -> list[Modality]:
    """The modalities that a model reads, see `of_inputs`; a model of graphs may read molecules, by its processor."""
    found = of_inputs(model.inputs, getattr(model, "modality", None))
    own = getattr(model, "preprocess", None)
    other = next((record for record in MODALITIES.values() if type(own) in record.processors.values()), None)
    is_other = other is not None and len(found) == 1 and found[0].family == other.family
    return [other] if is_other and other is not None else found


def of_file(name: str | Path, among: Sequence[str] = ()) -> Modality | None:
    """The modality of a file, by its suffix; None if unknown.

    among: names of those that a model reads, which come first where several have files of this suffix, such as .npz.
    """
    end = Path(name).name.lower() if len(str(name)) < 4096 else ""
    suffixes = Path(end).suffix, "".join(Path(end).suffixes[-2:])  # "x.fasta.gz" has two
    found = [record for record in MODALITIES.values() if set(suffixes) & {*record.suffixes}]
    return next((record for record in found if record.name in among), found[0] if found else None)


def of_item(item: Any, *, must_exist: bool = False) -> Modality:
    """The modality of one item: a path, a text, or an object in memory.

    A string with the suffix of a modality is a path; must_exist: if it has several words, only if that file exists.
    Raises ValueError for a Path with an unknown suffix.
    """
    if isinstance(item, str | Path):
        found = of_file(item)
        if found is None and isinstance(item, Path):
            every = ", ".join(suffix for record in MODALITIES.values() for suffix in record.suffixes)
            raise ValueError(f"{item} has an unknown file type: expected one of {every}")
        words = isinstance(item, str) and len(item.split()) > 1
        if found is None or (must_exist and words and not Path(item).is_file()):
            return MODALITIES["text"]
        return found
    return next((record for record in MODALITIES.values() if record.is_item(item)), MODALITIES["image"])


NAMES = tuple(MODALITIES)  # embedding files store indices into it: append new modalities at the end


def file_modality(name: str | Path, among: Sequence[str] = ()) -> str | None:
    """The name of the modality of a file, by its suffix; None if unknown. among: see `of_file`."""
    found = of_file(name, among)
    return found.name if found else None


def item_modality(item: Any) -> str:
    """The name of the modality of an item; a string with the suffix of a modality is a path."""
    return of_item(item).name
