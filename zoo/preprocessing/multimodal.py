"""One preprocess for models of several towers: each input by that of its tower."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from zoo.preprocessing.image import pair
from zoo.utils.errors import did_you_mean

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif", ".m4a")
# What one call may ask of each kind.
OPTIONS: dict[str, tuple[str, ...]] = {
    "image": (),
    "text": ("truncate", "max_length", "padding", "multiple"),
    "audio": ("sampling_rate", "resample", "too_long"),
}
# What a tower's own preprocess calls an input that has another name beside other towers.
RENAMED = {"audio": {"attention_mask": "audio_attention_mask"}}


@dataclass(frozen=True, kw_only=True)
class MultimodalProcessor:
    """images, texts and sounds -> one batch: {"pixel_values", "input_ids", "attention_mask", "input_values", ...}.

        model.preprocess(images=[picture], text=["a red bird"])   each under its name
        model.preprocess("a red bird")                            or one kind, known by its type

    A string is a text, unless it names a file that ends like a picture or a sound (one of several words must exist: say
    text= of what only looks like a file); a Path is always a file, a (waveform, rate) a sound.
    image, text, audio: the towers' own preprocesses, None where a tower has none.
    """

    image: Any = None
    text: Any = None
    audio: Any = None

    def __call__(
        self, x: Any = None, *, images: Any = None, text: Any = None, audio: Any = None, **options: Any
    ) -> dict[str, Tensor]:
        """x: one thing or a list of one kind. options: for this call, of the texts (truncate, max_length, padding,
        multiple) or the sounds (rate, resample, too_long). Raises ValueError for a kind that no tower takes.
        """
        for name in options:
            if not any(name in known for known in OPTIONS.values()):
                every = ["images", "text", "audio", *(option for known in OPTIONS.values() for option in known)]
                raise ValueError(f"preprocess takes no {name!r}{did_you_mean(name, every, {'image': 'images'})}")
        given = {"image": images, "text": text, "audio": audio}
        if x is not None:
            kind = kind_of(x)
            if given[kind] is not None:
                raise ValueError(f"{kind} was given twice, in place and by name")
            given[kind] = x
        batch: dict[str, Tensor] = {}
        for name, value in given.items():
            if value is not None:
                chosen = {option: options.pop(option) for option in OPTIONS[name] if option in options}
                batch |= self.part(name, value, **chosen)
        if not batch:
            raise ValueError("nothing given: expected x, or images=, text= or audio=")
        if options:
            raise ValueError(f"{next(iter(options))}= has nothing to act on in this call")
        return batch

    def part(self, name: str, value: Any, **options: Any) -> dict[str, Tensor]:
        """The batch of one tower, under the names that it has beside others."""
        own = getattr(self, name)
        if own is None:
            ways = {
                "image": "ImageProcessor",
                "text": "TextProcessor (zoo.preprocessing.tokenizer_training.train makes one)",
            }
            raise ValueError(
                f"no preprocessing for {name}: set model.preprocess = dataclasses.replace(model.preprocess, {name}=...)"
                f" with {ways.get(name, 'one for sounds')}"
            )
        made = own(value, **options)
        if (types := made.pop("token_type_ids", None)) is not None and bool(types.any()):
            raise ValueError("a pair of texts: a tower embeds one text at a time")
        return {RENAMED.get(name, {}).get(key, key): tensor for key, tensor in made.items()}

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


def kind_of(x: Any) -> str:
    """ "image", "text" or "audio", by the type of a thing or of all things in a list."""
    if isinstance(x, list):
        kinds = {kind_of(each) for each in x}
        if len(kinds) != 1:
            raise ValueError(
                f"expected a list of one kind, given {sorted(kinds) or 'an empty one'}: say images=, text="
            )
        return kinds.pop()
    if isinstance(x, str | Path):
        ending, path = Path(x).suffix.lower() if len(str(x)) < 4096 else "", isinstance(x, Path)
        named = path or len(str(x).split()) == 1  # one word that ends so is a file, missing or not
        if ending in PICTURES and (named or Path(x).is_file()):
            return "image"
        if ending in SOUNDS and (named or Path(x).is_file()):
            return "audio"
        if path:
            raise ValueError(f"{x}: expected a picture ({', '.join(PICTURES)}) or a sound ({', '.join(SOUNDS)})")
        return "text"
    if isinstance(x, bytes | Mapping) or (isinstance(x, tuple) and len(x) == 2 and isinstance(x[1], int | float)):
        return "audio"
    if isinstance(x, Sequence):
        return kind_of(list(x))
    return "image"
