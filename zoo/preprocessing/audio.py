"""Base class of the audio feature extractors: decoding, sampling rate and length of clips.

The sampling rate must always be known, and a clip that is too long is never truncated silently.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor

from zoo.preprocessing import audio_io
from zoo.preprocessing.audio_io import AudioBlock, AudioError
from zoo.preprocessing.processor import Processor
from zoo.utils.errors import LoadError, check_choice, check_keys
from zoo.utils.type_checks import check_types

if TYPE_CHECKING:
    import numpy

    AudioInput = str | Path | bytes | tuple[Tensor | numpy.ndarray, int] | Tensor | numpy.ndarray

TooLong = Literal["error", "cut", "windows"]


@dataclass(frozen=True, kw_only=True)
class AudioProcessor(Processor):
    """Base class of SpectrogramFeatureExtractor and WaveformFeatureExtractor.

    A clip is a path, the bytes of a file, a tuple (samples, sampling_rate), a dict {"array": samples, "sampling_rate":
    rate} as in `datasets`, or samples alone with `sampling_rate=`. Samples are floats in -1 .. 1, int16 or int32, [S]
    or in a tuple [C, S], whose channels are averaged. A list of clips is a batch, one clip a batch of one.

    sampling_rate: samples per second that the model was trained on.
    resample: whether to resample clips with another sampling rate; otherwise that is an error.
    too_long: for clips longer than the model takes: "error" raises, "cut" keeps the beginning, "windows" makes one row
        of each window (see `windows`).
    """

    sampling_rate: int = 16000
    resample: bool = False
    too_long: TooLong = "error"

    def __post_init__(self) -> None:
        check_choice("too_long", self.too_long, ("error", "cut", "windows"))
        check_types(self)
        if self.sampling_rate < 1:
            raise ValueError(f"sampling_rate={self.sampling_rate}: expected samples per second, such as 16000")

    @property
    def max_samples(self) -> int | None:
        """The maximum length of a row in samples; None for no limit."""
        raise NotImplementedError

    @property
    def min_samples(self) -> int:
        """The minimum length of a clip in samples."""
        return 1

    def batch(self, waves: list[Tensor]) -> dict[str, Tensor]:
        """The model inputs of clips [S] at `sampling_rate`, with lengths from `min_samples` to `max_samples`."""
        raise NotImplementedError

    def __call__(
        self,
        audio: "AudioInput | Sequence[AudioInput]",
        *,
        sampling_rate: int | None = None,
        resample: bool | None = None,
        too_long: TooLong | None = None,
    ) -> dict[str, Tensor]:
        """audio: one clip or a list. sampling_rate: of samples without one. Other options override those of the class.

        Raises AudioError (a ValueError) naming the clip that is not audio, empty, too short or too long, has another
        sampling rate, or samples that are not finite.
        """
        options: dict[str, Any] = {"resample": resample, "too_long": too_long}
        if chosen := {name: value for name, value in options.items() if value is not None}:
            return replace(self, **chosen)(audio, sampling_rate=sampling_rate)
        if isinstance(audio, Sequence) and not isinstance(audio, str | bytes) and not _is_pair(audio):
            batch: list[Any] = list(audio)
        else:
            batch = [audio]
        if not batch:
            raise ValueError("the list of audio clips is empty: expected at least one clip")
        waves = [wave for index, clip in enumerate(batch) for wave in self._rows(clip, index, sampling_rate)]
        return self.batch(waves)

    def windows(self, clip: "AudioInput", *, sampling_rate: int | None = None, index: int = 0) -> Iterator[AudioBlock]:
        """Split a clip into windows of `max_samples`; the last one ends with the clip and overlaps the one before.

        Files are streamed. Windows can be preprocessed as clips: `preprocess([(w.wave, w.sampling_rate), ...])`.
        index: of the clip in its batch, for messages.
        """
        if self.max_samples is None:
            raise ValueError("a feature extractor without a maximum length has no windows: set max_length= (samples)")
        previous: Tensor | None = None
        for block in self._blocks(clip, name_of(clip, index), sampling_rate):
            wave, start = block.wave, block.start
            if previous is not None and len(wave) < self.max_samples:
                start -= self.max_samples - len(wave)
                wave = torch.cat([previous[len(wave) :], wave])
            yield AudioBlock(start, wave, self.sampling_rate)
            previous = wave

    def _rows(self, clip: Any, index: int, sampling_rate: int | None) -> list[Tensor]:
        """The waveforms that one clip contributes to the batch."""
        name = name_of(clip, index)
        if self.max_samples is None or self.too_long == "error":
            waves = [self.load(clip, name, sampling_rate)]
        elif self.too_long == "cut":
            waves = [next(self._blocks(clip, name, sampling_rate)).wave]
        else:
            waves = [window.wave for window in self.windows(clip, sampling_rate=sampling_rate, index=index)]
        for wave in waves:
            self.check_length(name, len(wave))
        return waves

    def check_length(self, name: str, samples: int, min_samples: int = 0) -> None:
        """Raises AudioError for a clip that is too long, or too short; min_samples: that the model itself needs."""
        lowest, highest = max(min_samples, self.min_samples), self.max_samples
        length = f"{samples} samples ({samples / self.sampling_rate:.3g} s at {self.sampling_rate} Hz)"
        if samples < lowest:
            raise AudioError(
                f"{name} is too short: it has {length}, expected at least {lowest} "
                f"({lowest / self.sampling_rate:.3g} s)"
            )
        if highest is not None and samples > highest:
            raise AudioError(
                f"{name} is too long: it has {length}, expected at most {highest} "
                f"({highest / self.sampling_rate:.3g} s): keep only the beginning with "
                f"model.preprocess(audio, too_long='cut'), or split it into several rows with too_long='windows'"
            )

    def load(self, clip: Any, name: str, sampling_rate: int | None) -> Tensor:
        """The waveform [S] of a clip, at the sampling rate of the model."""
        if isinstance(clip, str | Path | bytes):
            return audio_io.read(clip, sampling_rate=self.sampling_rate, resample=self.resample)[0]
        clip = as_pair(clip)
        samples, declared = clip if _is_pair(clip) else (clip, sampling_rate)
        wave = audio_io.as_wave(samples, name, channels=_is_pair(clip))
        if declared is None:
            raise ValueError(
                f"{name} has no sampling rate: pass (samples, sampling_rate), or sampling_rate= for the whole batch"
            )
        actual = audio_io.as_sampling_rate(declared, name)
        if actual != self.sampling_rate and not self.resample:
            raise audio_io.wrong_sampling_rate(name, actual, self.sampling_rate)
        return audio_io.resampled(wave, actual, self.sampling_rate)

    def _blocks(self, clip: Any, name: str, sampling_rate: int | None) -> Iterator[AudioBlock]:
        """Consecutive blocks of `max_samples` samples of a clip; the last one may be shorter."""
        assert self.max_samples is not None
        if isinstance(clip, str | Path | bytes):
            yield from audio_io.blocks(
                clip, self.max_samples / self.sampling_rate, sampling_rate=self.sampling_rate, resample=self.resample
            )
            return
        wave = self.load(clip, name, sampling_rate)
        for start in range(0, len(wave), self.max_samples):
            yield AudioBlock(start, wave[start : start + self.max_samples], self.sampling_rate)

    # --- files --------------------------------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], files: Mapping[str, str] | None = None) -> Self:
        """The inverse of `to_dict`. An unknown or missing key raises LoadError."""
        values = {name: value for name, value in values.items() if name != "kind"}
        check_keys("preprocess", values, [field.name for field in fields(cls)])
        for name in (
            "sampling_rate",
            "frames",
            "num_mel_bins",
            "frame_length",
            "frame_shift",
            "low_freq",
            "mean",
            "std",
        ):
            if isinstance(values.get(name, 0), bool | str | list | dict | None):
                raise LoadError(f"preprocess has {name}={values[name]!r}, expected a number")
        return cls(**values)

    def transformers_files(self) -> dict[str, Any]:
        """{name: contents} of the files that transformers reads."""
        return {"preprocessor_config.json": self.to_transformers()}

    def to_transformers(self) -> dict[str, Any]:
        """`preprocessor_config.json`. Raises ValueError if transformers cannot express these settings."""
        raise NotImplementedError


def as_pair(clip: Any) -> Any:
    """(samples, sampling_rate) of a dict {"array", "sampling_rate"} as in `datasets`; other clips unchanged."""
    if isinstance(clip, Mapping) and {"array", "sampling_rate"} <= clip.keys():
        return clip["array"], clip["sampling_rate"]
    return clip


def _is_pair(clip: Any) -> bool:
    """Whether a clip is a tuple (samples, sampling_rate)."""
    return isinstance(clip, tuple) and len(clip) == 2 and hasattr(clip[0], "shape")


def name_of(clip: Any, index: int) -> str:
    """The name of a clip in messages: its path, or its index in the batch."""
    return str(clip) if isinstance(clip, str | Path) else f"audio clip {index}"


# Defaults of transformers' classes, for keys that are missing in a file.
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


def extractor_values(config: Mapping[str, Any], *known: str) -> tuple[str, dict[str, Any]]:
    """(class name, values) of a `preprocessor_config.json`; missing keys have the defaults of the class."""
    kind = config.get("feature_extractor_type") or known[0]
    if kind not in known:
        raise LoadError(f"transformers' {kind} is not supported for this model; supported: {', '.join(known)}")
    values = EXTRACTORS[kind] | {name: value for name, value in config.items() if value is not None}
    if values["padding_value"] != 0 or values.get("dither", 0) != 0 or values.get("padding_side", "right") != "right":
        raise LoadError(f"transformers' {kind} is only supported with zero padding on the right and without dither")
    return kind, values
