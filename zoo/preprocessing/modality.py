"""One record per modality: all that code outside a modality's own packages knows about it.

Prediction, embedding, verification, HTML pages, model cards and the command line read these records instead of asking
which modality they have. A new modality is a front end (`zoo/nn/frontends`), its processor here, its data package and
one entry of `MODALITIES`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.preprocessing import audio_io, display
from zoo.preprocessing.image import pair


@dataclass(frozen=True, kw_only=True)
class Modality:
    """A modality.

    name: of its tower in a model of several ("image"). plural: in messages. family: what `Family.modality` says.
    inputs: {name in a batch: its name beside other towers}; the first is the main input.
    argument: of `MultimodalProcessor`. options: what one call of its processor may set.
    suffixes: of its files, in lower case. unnamed: what messages call an item without a name.
    is_item: whether an object in memory is one item. load: a path to an item in memory.
    example: (config, generator) to two rows of the main input. pipelines: {head: the hub's name of the task}.
    html, plot: how a page and a figure show one item; see `display.py`.
    templates: sentences for zero-shot classification, with {} for the name of a class.
    processor: how to make a processor. sample: what a usage example calls.
    """

    name: str
    plural: str
    family: str
    inputs: Mapping[str, str]
    argument: str
    options: tuple[str, ...] = ()
    suffixes: tuple[str, ...]
    unnamed: str
    is_item: Callable[[Any], bool]
    load: Callable[[Path], Any]
    example: Callable[[Any, torch.Generator], Tensor]
    html: Callable[[Any, str], str]
    plot: Callable[[Any, Any], None]
    pipelines: Mapping[str | None, str] = field(default_factory=dict)
    templates: tuple[str, ...] = ()
    processor: str
    sample: str

    @property
    def files_only(self) -> bool:
        """Whether a string always is the path of a file."""
        return self.name != "text"

    @property
    def main_input(self) -> str:
        return next(iter(self.inputs))


def _pixel_values(config: Any, generator: torch.Generator) -> Tensor:
    return torch.randn(2, config.in_chans, *pair(config.image_size), generator=generator)


def _input_ids(config: Any, generator: torch.Generator) -> Tensor:
    fixed = not getattr(config, "causal", True)  # a text of fixed length: its padding is content
    length = config.max_length if fixed else min(16, config.max_length)
    ids = torch.randint(config.vocab_size, (2, length), generator=generator)
    if getattr(config, "pool", None) == "eos":
        ids[:, -1] = config.eos_token_id
    return ids


def _input_values(config: Any, generator: torch.Generator) -> Tensor:
    """Spectrograms, or for a waveform model 24 tokens of samples."""
    shape = (config.max_length, config.mel_bins) if hasattr(config, "mel_bins") else (config.samples(24),)
    return torch.randn(2, *shape, generator=generator)


def _is_clip(item: Any) -> bool:
    """(waveform, sampling rate), the bytes of a file, or {"array": ..., "sampling_rate": ...}."""
    return isinstance(item, bytes | Mapping) or (
        isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], int | float)
    )


def _is_image(item: Any) -> bool:
    """A PIL image, an array or a tensor."""
    return hasattr(item, "convert") or (hasattr(item, "shape") and not isinstance(item, str | Path))


MODALITIES: dict[str, Modality] = {
    "image": Modality(
        name="image",
        plural="images",
        family="vision",
        inputs={"pixel_values": "pixel_values"},
        argument="images",
        suffixes=(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"),
        unnamed="an image",
        is_item=_is_image,
        load=display.open_image,
        example=_pixel_values,
        html=display.image_html,
        plot=display.plot_image,
        pipelines={"classify": "image-classification"},
        templates=(
            "a picture of a {}.", "a photograph that shows a {}.", "here you see a {}.",
            "the {} in the middle of the picture.",
            "a {} from close by.", "a {} far away.", "a small {}.", "a big {}.", "a part of a {}.", "more than one {}.",
            "a dim photograph of a {}.", "a bright photograph of a {}.", "a blurred photograph of a {}.",
            "a drawing of a {}.", "a painted {}.", "{}",
        ),
        processor="zoo.preprocessing.image.ImageProcessor(...)",
        sample="image.png",
    ),
    "text": Modality(
        name="text",
        plural="texts",
        family="text",
        inputs={"input_ids": "input_ids", "attention_mask": "attention_mask"},
        argument="text",
        options=("truncate", "max_length", "padding", "multiple"),
        suffixes=(".txt",),
        unnamed="a text",
        is_item=lambda item: isinstance(item, str),
        load=display.read_text,
        example=_input_ids,
        html=display.text_html,
        plot=display.plot_text,
        pipelines={
            "classify": "text-classification", "token": "token-classification", "qa": "question-answering",
            "masked_lm": "fill-mask", "lm": "text-generation", "pool": "feature-extraction",
        },
        processor="zoo.preprocessing.text.TextProcessor(...) or zoo.preprocessing.tokenizer_training.train(...)",
        sample="a text",
    ),
    "audio": Modality(
        name="audio",
        plural="audio clips",
        family="audio",
        inputs={"input_values": "input_values", "attention_mask": "audio_attention_mask"},
        argument="audio",
        options=("sampling_rate", "resample", "too_long"),
        suffixes=(".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif", ".m4a"),
        unnamed="an audio clip",
        is_item=_is_clip,
        load=audio_io.read,
        example=_input_values,
        html=display.audio_html,
        plot=display.plot_audio,
        pipelines={"classify": "audio-classification", "ctc": "automatic-speech-recognition"},
        templates=(
            "the sound of {}.", "a recording of {}.", "here you hear {}.", "{} close to the microphone.",
            "{} in the distance.", "a noisy recording of {}.", "somebody says {}.", "{}",
        ),
        processor="zoo.preprocessing.spectrogram.SpectrogramFeatureExtractor(...) or "
        "zoo.preprocessing.waveform.WaveformFeatureExtractor(...)",
        sample="audio.wav",
    ),
}  # fmt: skip


def of_family(modality: str) -> Modality | None:
    """The record of what `Family.modality` says; None for models of several towers."""
    return next((record for record in MODALITIES.values() if record.family == modality), None)


def of_inputs(inputs: Sequence[str]) -> list[Modality]:
    """The modalities whose main input is among a model's inputs."""
    return [record for record in MODALITIES.values() if record.main_input in inputs]


def of_file(name: str | Path) -> Modality | None:
    """The modality of a file by its suffix, or None."""
    suffix = Path(name).suffix.lower() if len(str(name)) < 4096 else ""
    return next((record for record in MODALITIES.values() if suffix in record.suffixes), None)


def of_item(item: Any, *, must_exist: bool = False) -> Modality:
    """The modality of one item: a path, a text, or an object in memory.

    A string that ends like a file of a modality is a path; must_exist: unless it is several words and there is no such
    file. Raises ValueError for a path that ends like none of them.
    """
    if isinstance(item, str | Path):
        found = of_file(item)
        if found is None and isinstance(item, Path):
            every = ", ".join(suffix for record in MODALITIES.values() for suffix in record.suffixes)
            raise ValueError(f"{item}: expected a file that ends with one of {every}")
        words = isinstance(item, str) and len(item.split()) > 1
        if found is None or (must_exist and words and not Path(item).is_file()):
            return MODALITIES["text"]
        return found
    return next((record for record in MODALITIES.values() if record.is_item(item)), MODALITIES["image"])


NAMES = tuple(MODALITIES)  # files of embeddings store places in it: new ones go to the end


def file_modality(name: str | Path) -> str | None:
    """The name of a file's modality by its suffix, or None."""
    found = of_file(name)
    return found.name if found else None


def item_modality(item: Any) -> str:
    """The name of an item's modality; a string that ends like a file of a modality is a path."""
    return of_item(item).name
