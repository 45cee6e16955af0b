"""How sounds are heard before features are made of them: decoded, at the rate of the model, of a length that it takes.

A rate is always known, and a clip that is too long is never cut unasked.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from zoo.preprocessing import audio_io
from zoo.preprocessing.audio_io import AudioBlock, AudioError
from zoo.utils.errors import LoadError, check_keys, did_you_mean

if TYPE_CHECKING:
    import numpy

    Sound = str | Path | bytes | tuple[Tensor | numpy.ndarray, int] | Tensor | numpy.ndarray

TooLong = Literal["error", "cut", "windows"]


@dataclass(frozen=True, kw_only=True)
class AudioProcessor:
    """What spectrograms and waveforms share.

    A sound is a path, the bytes of a file, a pair (samples, rate) or what `datasets` makes of one, {"array": samples,
    "sampling_rate": rate}, or samples alone with `sampling_rate=`. Samples are [S] or, in a pair, [C, S], whose channels are
    mixed: floats in -1 .. 1, or int16 or int32 of full scale. A list of sounds is a batch, one sound a batch of one.

    sampling_rate: samples per second that the model was trained on.
    resample: whether a sound of another rate is converted; otherwise it is an error.
    too_long: what happens to a clip longer than the model takes: "error" raises, "cut" takes its beginning, "windows"
        makes several rows of it (as `windows` cuts them).
    """

    kind: ClassVar[str]
    sampling_rate: int = 16000
    resample: bool = False
    too_long: TooLong = "error"

    def __post_init__(self) -> None:
        if self.sampling_rate < 1:
            raise ValueError(f"sampling_rate={self.sampling_rate}: expected samples per second, such as 16000")
        one_of("too_long", self.too_long, ("error", "cut", "windows"))

    @property
    def limit(self) -> int | None:
        """The most samples of one row; None where there is no limit."""
        raise NotImplementedError

    @property
    def least(self) -> int:
        """The fewest samples that mean anything."""
        return 1

    def batch(self, waves: list[Tensor]) -> dict[str, Tensor]:
        """Clips [S] at `sampling_rate`, of lengths from `least` to `limit`, as the model takes them."""
        raise NotImplementedError

    def __call__(
        self,
        given: "Sound | Sequence[Sound]",
        *,
        sampling_rate: int | None = None,
        resample: bool | None = None,
        too_long: TooLong | None = None,
    ) -> dict[str, Tensor]:
        """given: one sound or a list; rate: of bare samples. The other options are those of the class, for this call.

        Raises AudioError (a ValueError) that names a sound which is none, empty, too short or long, of another rate, or
        has samples that are no numbers.
        """
        options: dict[str, Any] = {"resample": resample, "too_long": too_long}
        if chosen := {name: value for name, value in options.items() if value is not None}:
            return replace(self, **chosen)(given, sampling_rate=sampling_rate)
        if isinstance(given, Sequence) and not isinstance(given, str | bytes) and not _is_pair(given):
            batch: list[Any] = list(given)
        else:
            batch = [given]
        if not batch:
            raise ValueError("no sounds given: expected one or a list of them")
        waves = [wave for place, sound in enumerate(batch) for wave in self._rows(sound, place, sampling_rate)]
        return self.batch(waves)

    def windows(self, sound: "Sound", *, sampling_rate: int | None = None, place: int = 0) -> Iterator[AudioBlock]:
        """A sound in pieces of `limit` samples; the last one ends where the sound ends, and overlaps the one before.

        Files are read in a stream. The samples of a piece are a sound again: `preprocess([(p.wave, p.sampling_rate), ...])`.
        place: which of several it is, for messages.
        """
        if self.limit is None:
            raise ValueError("this preprocessing has no limit to make windows of: set max_length= (samples)")
        before: Tensor | None = None
        for piece in self._pieces(sound, name_of(sound, place), sampling_rate):
            wave, start = piece.wave, piece.start
            if before is not None and len(wave) < self.limit:
                start -= self.limit - len(wave)
                wave = torch.cat([before[len(wave) :], wave])
            yield AudioBlock(start, wave, self.sampling_rate)
            before = wave

    def _rows(self, sound: Any, place: int, sampling_rate: int | None) -> list[Tensor]:
        """One sound as the clips that become rows."""
        name = name_of(sound, place)
        if self.limit is None or self.too_long == "error":
            waves = [self._whole(sound, name, sampling_rate)]
        elif self.too_long == "cut":
            waves = [next(self._pieces(sound, name, sampling_rate)).wave]
        else:
            waves = [window.wave for window in self.windows(sound, sampling_rate=sampling_rate, place=place)]
        for wave in waves:
            self.check_length(name, len(wave))
        return waves

    def check_length(self, name: str, samples: int, least: int = 0) -> None:
        """Raises AudioError for a clip of too few samples, for this or for a model that needs `least`; or too many."""
        least = max(least, self.least)
        seconds = f"{samples} samples ({samples / self.sampling_rate:.3g} s at {self.sampling_rate} Hz)"
        if samples < least:
            raise AudioError(f"{name} has {seconds}, at least {least} are needed")
        if self.limit is not None and samples > self.limit:
            raise AudioError(
                f"{name} has {seconds}, at most {self.limit} ({self.limit / self.sampling_rate:.3g} s) are taken: cut it with "
                f"model.preprocess(sounds, too_long='cut'), or listen to all of it with too_long='windows'"
            )

    def _whole(self, sound: Any, name: str, sampling_rate: int | None) -> Tensor:
        """All samples [S] of a sound, at the rate of the model."""
        if isinstance(sound, str | Path | bytes):
            return audio_io.read(sound, sampling_rate=self.sampling_rate, resample=self.resample)[0]
        sound = as_pair(sound)
        wave, given = sound if _is_pair(sound) else (sound, sampling_rate)
        wave = audio_io.as_wave(wave, name, channels=_is_pair(sound))
        if given is None:
            raise ValueError(f"{name} has no sampling rate: give (samples, rate), or rate= for all of them")
        have = audio_io.as_sampling_rate(given, name)
        if have != self.sampling_rate and not self.resample:
            raise audio_io.wrong_sampling_rate(name, have, self.sampling_rate)
        return audio_io.resampled(wave, have, self.sampling_rate)

    def _pieces(self, sound: Any, name: str, sampling_rate: int | None) -> Iterator[AudioBlock]:
        """A sound in consecutive pieces of `limit` samples, the last one of what is left."""
        assert self.limit is not None
        if isinstance(sound, str | Path | bytes):
            yield from audio_io.blocks(
                sound, self.limit / self.sampling_rate, sampling_rate=self.sampling_rate, resample=self.resample
            )
            return
        wave = self._whole(sound, name, sampling_rate)
        for start in range(0, len(wave), self.limit):
            yield AudioBlock(start, wave[start : start + self.limit], self.sampling_rate)

    # --- files --------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {"kind": self.kind} | asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], files: Mapping[str, str] | None = None) -> Self:
        """The inverse of `to_dict`. An unknown or missing key raises LoadError."""
        values = {name: value for name, value in values.items() if name != "kind"}
        check_keys("preprocess", values, [field.name for field in fields(cls)])
        for name in ("sampling_rate", "frames", "bins", "length", "shift", "low", "mean", "std"):
            if isinstance(values.get(name, 0), bool | str | list | dict | None):
                raise LoadError(f"preprocess has {name}={values[name]!r}, expected a number")
        return cls(**values)

    def files(self) -> dict[str, str]:
        """{name: contents} of files beside config.json: none, `to_dict` says all."""
        return {}

    def transformers_files(self) -> dict[str, Any]:
        """{file name: contents} of what transformers reads."""
        return {"preprocessor_config.json": self.to_transformers()}

    def to_transformers(self) -> dict[str, Any]:
        """`preprocessor_config.json`. Raises ValueError where transformers has no word for it."""
        raise NotImplementedError

    def fitted_to(self, config: Any) -> Self:
        """The same for a model of another config."""
        return self

    def check(self, config: Any) -> None:
        """Raises ValueError unless a model with this config takes what comes out."""


def as_pair(sound: Any) -> Any:
    """(samples, rate) of the {"array": samples, "sampling_rate": rate} that `datasets` gives; others as they are."""
    if isinstance(sound, Mapping) and {"array", "sampling_rate"} <= sound.keys():
        return sound["array"], sound["sampling_rate"]
    return sound


def _is_pair(sound: Any) -> bool:
    """(samples, rate)."""
    return isinstance(sound, tuple) and len(sound) == 2 and hasattr(sound[0], "shape")


def name_of(sound: Any, place: int) -> str:
    """How a sound is called in messages."""
    return str(sound) if isinstance(sound, str | Path) else f"sound {place}"


def one_of(name: str, given: Any, known: tuple[str, ...]) -> None:
    """Raises ValueError for what is none of these."""
    if given not in known:
        raise ValueError(f"{name} is {given!r}, expected one of {', '.join(known)}{did_you_mean(str(given), known)}")


# What transformers' classes assume for keys that a file leaves out.
EXTRACTORS: dict[str, dict[str, Any]] = {
    "ASTFeatureExtractor": dict(
        sampling_rate=16000, num_mel_bins=128, max_length=1024, padding_value=0.0, do_normalize=True,
        mean=-4.2677393, std=4.5689974,
    ),
    "WhisperFeatureExtractor": dict(
        sampling_rate=16000, feature_size=80, hop_length=160, chunk_length=30, n_fft=400, padding_value=0.0, dither=0.0
    ),
    "Wav2Vec2FeatureExtractor": dict(
        sampling_rate=16000, feature_size=1, do_normalize=True, return_attention_mask=False, padding_value=0.0
    ),
}  # fmt: skip


def _extractor(given: Mapping[str, Any], *known: str) -> tuple[str, dict[str, Any]]:
    """(class, its values) of a `preprocessor_config.json`; what it leaves out has the defaults of the class."""
    kind = given.get("feature_extractor_type") or known[0]
    if kind not in known:
        raise LoadError(f"transformers' {kind} is not known for such a model; known: {', '.join(known)}")
    values = EXTRACTORS[kind] | {name: value for name, value in given.items() if value is not None}
    if values["padding_value"] != 0 or values.get("dither", 0) != 0 or values.get("padding_side", "right") != "right":
        raise LoadError(f"transformers' {kind} with another padding than zeros on the right, or with dither")
    return kind, values
