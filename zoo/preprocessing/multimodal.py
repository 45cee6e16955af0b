"""The processor of multi-tower models: passes each input to the processor of its tower."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from zoo.preprocessing.modality import MODALITIES, of_item
from zoo.utils.errors import did_you_mean


@dataclass(frozen=True, kw_only=True)
class MultimodalProcessor:
    """Images, texts and audio clips -> one batch {"pixel_values", "input_ids", "attention_mask", "input_values", ...}.

        model.preprocess(images=[image], text=["a red bird"])     by name
        model.preprocess("a red bird")                            or one modality, detected from the input

    A string is a text, unless it has the suffix of an image or audio file (and, with several words, exists as one).
    Pass text= for a text that looks like a file name. A Path is always a file, (waveform, sampling rate) an audio clip.
    image, text, audio: the processors of the towers; None if a tower has none.
    """

    image: Any = None
    text: Any = None
    audio: Any = None

    def __call__(
        self, x: Any = None, *, images: Any = None, text: Any = None, audio: Any = None, **options: Any
    ) -> dict[str, Tensor]:
        """x: one item or a list of items of one modality. options: for this call, of the text processor (truncate,
        max_length, padding, multiple) or of the audio processor (sampling_rate, resample, too_long).

        Raises ValueError for a modality without a processor.
        """
        known = [option for record in MODALITIES.values() for option in record.options]
        for name in options:
            if name not in known:
                arguments = {record.name: record.argument for record in MODALITIES.values()}
                near = did_you_mean(name, [*arguments.values(), *known], arguments)
                raise ValueError(f"preprocess has no option {name!r}{near}")
        inputs = {"image": images, "text": text, "audio": audio}
        if x is not None:
            modality = modality_of(x)
            if inputs[modality] is not None:
                raise ValueError(f"{modality} was given twice, by position and by name: pass it once")
            inputs[modality] = x
        batch: dict[str, Tensor] = {}
        for name, value in inputs.items():
            if value is not None:
                used = [option for option in MODALITIES[name].options if option in options]
                batch |= self.part(name, value, **{option: options.pop(option) for option in used})
        if not batch:
            raise ValueError("preprocess needs an input: pass one by position, or images=, text= or audio=")
        if options:
            raise ValueError(f"{next(iter(options))}= does not apply to any input of this call")
        return batch

    def part(self, name: str, value: Any, **options: Any) -> dict[str, Tensor]:
        """The batch of one tower, with the input names of multi-tower models."""
        processor = getattr(self, name)
        if processor is None:
            raise ValueError(
                f"the model has no preprocessing for {name}: set model.preprocess = dataclasses.replace("
                f"model.preprocess, {name}=...) with {MODALITIES[name].processor}"
            )
        batch = processor(value, **options)
        if (types := batch.pop("token_type_ids", None)) is not None and bool(types.any()):
            raise ValueError(
                "the text tower embeds single texts, given a pair of texts: pass a string or a list of strings"
            )
        return {MODALITIES[name].inputs.get(key, key): tensor for key, tensor in batch.items()}

    def fitted_to(self, config: Any) -> Self:
        """A copy with processors adapted to the towers, e.g. to the image size."""
        towers = config.parts
        return replace(self, **{n: part.fitted_to(towers[n]) for n, part in self.parts().items() if n in towers})

    # --- files ----------------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, Any]:
        """{modality: processor} of the towers that have one."""
        return {f.name: part for f in fields(self) if (part := getattr(self, f.name)) is not None}

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types, without the files (a tokenizer)."""
        return {"kind": "pair"} | {
            f.name: part and part.to_dict() for f in fields(self) for part in [getattr(self, f.name)]
        }

    def files(self) -> dict[str, str]:
        """{name: contents} of the files saved beside config.json."""
        return {name: text for part in self.parts().values() for name, text in part.files().items()}

    def check(self, config: Any) -> None:
        """Raises ValueError if a processor does not fit its tower, or the model has no such tower."""
        for name, part in self.parts().items():
            if name not in config.parts:
                raise ValueError(
                    f"preprocess has a processor for {name}, but the model only has towers for "
                    f"{', '.join(config.parts)}"
                )
            part.check(config.parts[name])

    def transformers_files(self) -> dict[str, Any]:
        """{name: contents} of the files that transformers reads."""
        return {name: text for part in self.parts().values() for name, text in part.transformers_files().items()}


def modality_of(x: Any) -> str:
    """The name of the modality of an item, or of all items in a list: "image", "text" or "audio"."""
    if isinstance(x, list):
        found = {modality_of(item) for item in x}
        if len(found) != 1:
            raise ValueError(
                f"expected a list of one modality, given {sorted(found) or 'an empty list'}: pass images=, text= or "
                f"audio="
            )
        return found.pop()
    if isinstance(x, Path) and of_item(x).name == "text":
        raise ValueError(f"{x} is a text file, expected an image or audio file: pass the text itself, as a string")
    if isinstance(x, Sequence) and not isinstance(x, str | bytes) and not MODALITIES["audio"].is_item(x):
        return modality_of(list(x))
    return of_item(x, must_exist=True).name
