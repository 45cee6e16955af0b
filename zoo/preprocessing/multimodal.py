"""The processor of models of several towers: each input goes to the processor of its tower."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from zoo.preprocessing.image import pair
from zoo.preprocessing.modality import MODALITIES, of_item
from zoo.utils.errors import did_you_mean


@dataclass(frozen=True, kw_only=True)
class MultimodalProcessor:
    """Images, texts and audio clips to one batch: {"pixel_values", "input_ids", "attention_mask", "input_values", ...}.

        model.preprocess(images=[image], text=["a red bird"])     each under its name
        model.preprocess("a red bird")                            or one modality, recognized by type

    A string is a text, unless it ends like an image or audio file (one of several words must exist: pass text= for a
    text that looks like a file name); a Path is always a file, a (waveform, sampling rate) an audio clip.
    image, text, audio: the processors of the towers, None where a tower has none.
    """

    image: Any = None
    text: Any = None
    audio: Any = None

    def __call__(
        self, x: Any = None, *, images: Any = None, text: Any = None, audio: Any = None, **options: Any
    ) -> dict[str, Tensor]:
        """x: one item or a list of items of one modality. options: for this call, of the texts (truncate, max_length,
        padding, multiple) or of the audio clips (sampling_rate, resample, too_long). Raises ValueError for a modality
        without a tower.
        """
        known = [option for record in MODALITIES.values() for option in record.options]
        for name in options:
            if name not in known:
                every = ["images", "text", "audio", *known]
                raise ValueError(f"preprocess takes no {name!r}{did_you_mean(name, every, {'image': 'images'})}")
        inputs = {"image": images, "text": text, "audio": audio}
        if x is not None:
            modality = modality_of(x)
            if inputs[modality] is not None:
                raise ValueError(f"{modality} was given twice, by position and by name")
            inputs[modality] = x
        batch: dict[str, Tensor] = {}
        for name, value in inputs.items():
            if value is not None:
                own = [option for option in MODALITIES[name].options if option in options]
                batch |= self.part(name, value, **{option: options.pop(option) for option in own})
        if not batch:
            raise ValueError("nothing given: expected x, or images=, text= or audio=")
        if options:
            raise ValueError(f"{next(iter(options))}= does not apply to any input of this call")
        return batch

    def part(self, name: str, value: Any, **options: Any) -> dict[str, Tensor]:
        """The batch of one tower, under the names that its inputs have beside other towers."""
        own = getattr(self, name)
        if own is None:
            raise ValueError(
                f"no preprocessing for {name}: set model.preprocess = dataclasses.replace(model.preprocess, {name}=...)"
                f" with {MODALITIES[name].processor}"
            )
        batch = own(value, **options)
        if (types := batch.pop("token_type_ids", None)) is not None and bool(types.any()):
            raise ValueError("a pair of texts: a tower embeds one text at a time")
        return {MODALITIES[name].inputs.get(key, key): tensor for key, tensor in batch.items()}

    def fitted_to(self, config: Any) -> Self:
        """The same for a model whose image tower has another size or channel count."""
        tower = config.parts.get("image")
        if self.image is None or tower is None or not hasattr(tower, "image_size"):
            return self
        return replace(self, image=self.image.fitted(pair(tower.image_size), tower.in_chans))

    # --- files ----------------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, Any]:
        return {f.name: own for f in fields(self) if (own := getattr(self, f.name)) is not None}

    def to_dict(self) -> dict[str, Any]:
        """JSON types, but for the files (a tokenizer)."""
        return {"kind": "pair"} | {
            f.name: own and own.to_dict() for f in fields(self) for own in [getattr(self, f.name)]
        }

    def files(self) -> dict[str, str]:
        """{name: contents} of the files beside config.json."""
        return {name: text for own in self.parts().values() for name, text in own.files().items()}

    def check(self, config: Any) -> None:
        """Raises ValueError where a part does not fit its tower, or there is no tower for it."""
        for name, own in self.parts().items():
            if name not in config.parts:
                raise ValueError(f"a preprocess for {name}, but the model has {', '.join(config.parts)}")
            own.check(config.parts[name])

    def transformers_files(self) -> dict[str, Any]:
        """{file name: contents} of what transformers reads."""
        return {name: text for own in self.parts().values() for name, text in own.transformers_files().items()}


def modality_of(x: Any) -> str:
    """ "image", "text" or "audio": the modality of an item, or of all items in a list."""
    if isinstance(x, list):
        found = {modality_of(item) for item in x}
        if len(found) != 1:
            raise ValueError(
                f"expected a list of one modality, given {sorted(found) or 'an empty list'}: pass images=, text="
            )
        return found.pop()
    if isinstance(x, Path) and of_item(x).name == "text":
        raise ValueError(f"{x}: expected an image or an audio file; pass the text itself, not a path")
    if isinstance(x, Sequence) and not isinstance(x, str | bytes) and not MODALITIES["audio"].is_item(x):
        return modality_of(list(x))
    return of_item(x, must_exist=True).name
