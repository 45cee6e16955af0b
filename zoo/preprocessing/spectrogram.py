"""Mel spectrograms for AST and Whisper."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from zoo.preprocessing import filter_banks
from zoo.preprocessing.audio import AudioProcessor, extractor_values
from zoo.utils.errors import check_choice, is_number

SHORT = 2  # seconds: stacking longer clips into one tensor saves no time


@dataclass(frozen=True, kw_only=True)
class SpectrogramFeatureExtractor(AudioProcessor):
    """Audio clips -> {"input_values": float32 [B, frames, bins]}, for Whisper {"input_features": [B, bins, frames]}.

    feature_type: "kaldi" for its log mel filter banks (AST), "log_mel" for torchaudio's, "whisper" for Whisper's.
    frames, num_mel_bins: size of the output. Shorter clips are padded: log energies with zeros, as AST does, and for
        Whisper the waveform with silence.
    frame_length, frame_shift: in milliseconds. low_freq, high_freq: range of the filters in Hz; high_freq=None is half
        the sampling rate.
    mean, std: the output is (x - mean) / std. The files of AST store half of this std.
    """

    kind: ClassVar[str] = "spectrogram"
    feature_type: Literal["kaldi", "log_mel", "whisper"] = "kaldi"
    num_mel_bins: int = 128
    frames: int = 1024
    frame_length: float = 25.0
    frame_shift: float = 10.0
    low_freq: float = 20.0
    high_freq: float | None = None
    mean: float = -4.2677393
    std: float = 2 * 4.5689974

    def __post_init__(self) -> None:
        check_choice("feature_type", self.feature_type, ("kaldi", "log_mel", "whisper"))
        super().__post_init__()
        for name in ("num_mel_bins", "frames", "frame_length", "frame_shift", "std"):
            if not (is_number(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a finite number above 0")
        for name in ("mean", "low_freq", "high_freq"):
            if not is_number(getattr(self, name) or 0):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a finite number")
        if not 0 <= self.low_freq < (self.high_freq or self.sampling_rate / 2) <= self.sampling_rate / 2:
            raise ValueError(
                f"low_freq={self.low_freq:g}, high_freq={self.high_freq or self.sampling_rate / 2:g}: expected "
                f"0 <= low_freq < high_freq <= {self.sampling_rate / 2:g} Hz, half the sampling rate"
            )

    @property
    def max_samples(self) -> int:
        if self.feature_type == "kaldi":
            return filter_banks.samples_of(self.frames + 1, self.sampling_rate, self.frame_length, self.frame_shift) - 1
        return self.frames * self._hop - (self.feature_type == "log_mel")

    @property
    def min_samples(self) -> int:
        """One frame, or half a frame and a sample for "log_mel", which reflects the edges. Whisper pads its clips."""
        if self.feature_type == "whisper":
            return 1
        return (
            filter_banks.samples_of(1, self.sampling_rate, self.frame_length, self.frame_shift)
            if self.feature_type == "kaldi"
            else self._fft // 2 + 1
        )

    @property
    def _hop(self) -> int:
        return int(self.sampling_rate * self.frame_shift * 0.001)

    @property
    def _fft(self) -> int:
        return int(self.sampling_rate * self.frame_length * 0.001)

    def batch(self, waves: list[Tensor]) -> dict[str, Tensor]:
        """Spectrograms of waveforms; consecutive ones of equal length are computed together."""
        if self.feature_type == "whisper":
            return {"input_features": torch.cat([self._whisper(wave[None]) for wave in waves])}
        out, done = torch.zeros(len(waves), self.frames, self.num_mel_bins), 0
        for length, run in groupby(waves, len):
            together = length < SHORT * self.sampling_rate
            for clips in [torch.stack(list(run))] if together else [wave[None] for wave in run]:
                self._write_logs(clips, out[done : done + len(clips)])
                done += len(clips)
        for row in out:  # while it is in the cache
            row.sub_(self.mean).div_(self.std)
        return {"input_values": out}

    def _whisper(self, clips: Tensor) -> Tensor:
        return filter_banks.whisper_log_mel(
            clips, self.sampling_rate, num_mel_bins=self.num_mel_bins, fft=self._fft, hop=self._hop, frames=self.frames
        )

    def _write_logs(self, clips: Tensor, out: Tensor) -> None:
        """Write the log energies of clips [B, S] into out [B, frames, bins]; later frames are left unchanged."""
        common: dict[str, Any] = dict(num_mel_bins=self.num_mel_bins, low_freq=self.low_freq, high_freq=self.high_freq)
        if self.feature_type == "kaldi":
            frames = filter_banks.frames_of(clips.shape[1], self.sampling_rate, self.frame_length, self.frame_shift)
            filter_banks.fbank(
                clips,
                self.sampling_rate,
                frame_length=self.frame_length,
                frame_shift=self.frame_shift,
                out=out[:, :frames],
                **common,
            )
        else:
            logs = filter_banks.log_mel(clips, self.sampling_rate, fft=self._fft, hop=self._hop, **common)
            out[:, : logs.shape[1]] = logs

    def fitted_to(self, config: Any) -> "SpectrogramFeatureExtractor":
        return replace(self, frames=frames_of_model(config), num_mel_bins=config.mel_bins)

    def check(self, config: Any) -> None:
        names = {"frames": frames_field(config), "num_mel_bins": "mel_bins"}
        for ours, theirs in names.items():
            if (expected := getattr(config, theirs, None)) is not None and getattr(self, ours) != expected:
                raise ValueError(
                    f"the preprocessing has {ours}={getattr(self, ours)}, but the model has {theirs}={expected}: "
                    f"they must be equal"
                )

    @classmethod
    def from_transformers(cls, extractor: Mapping[str, Any]) -> "SpectrogramFeatureExtractor":
        """From the `preprocessor_config.json` of ASTFeatureExtractor or WhisperFeatureExtractor; missing keys have the
        defaults of the class. Raises LoadError for unsupported settings."""
        kind, values = extractor_values(extractor, "ASTFeatureExtractor", "WhisperFeatureExtractor")
        sampling_rate = values["sampling_rate"]
        if kind == "WhisperFeatureExtractor":
            shift, length = (1000 * values[name] / sampling_rate for name in ("hop_length", "n_fft"))
            frames = values["chunk_length"] * sampling_rate // values["hop_length"]
            sizes: dict[str, Any] = dict(
                num_mel_bins=values["feature_size"], frames=frames, frame_length=length, frame_shift=shift
            )
            return cls(feature_type="whisper", sampling_rate=sampling_rate, low_freq=0.0, mean=0.0, std=1.0, **sizes)
        mean, std = (values["mean"], 2 * values["std"]) if values["do_normalize"] else (0.0, 1.0)
        return cls(
            sampling_rate=sampling_rate,
            num_mel_bins=values["num_mel_bins"],
            frames=values["max_length"],
            mean=mean,
            std=std,
        )

    def to_transformers(self) -> dict[str, Any]:
        name = {"kaldi": "ASTFeatureExtractor", "whisper": "WhisperFeatureExtractor"}.get(self.feature_type)
        if name is None:
            raise ValueError(f"transformers has no feature extractor for feature_type={self.feature_type!r}")
        common: dict[str, Any] = {
            "feature_extractor_type": name,
            "sampling_rate": self.sampling_rate,
            "padding_value": 0.0,
        }
        common |= {"padding_side": "right", "return_attention_mask": False}
        if self.feature_type == "whisper":
            seconds, rest = divmod(self.frames * self._hop, self.sampling_rate)
            values: dict[str, Any] = {
                "chunk_length": seconds,
                "feature_size": self.num_mel_bins,
                "hop_length": self._hop,
                "n_fft": self._fft,
            }
            values |= {"n_samples": self.max_samples, "nb_max_frames": self.frames, "dither": 0.0}
        else:
            rest = 0
            values = {"num_mel_bins": self.num_mel_bins, "max_length": self.frames, "feature_size": 1}
            values |= {"do_normalize": True, "mean": self.mean, "std": self.std / 2}
        again = type(self).from_transformers(common | values)
        if rest or replace(again, resample=self.resample, too_long=self.too_long) != self:
            raise ValueError(f"transformers' {name} cannot express {self}")
        return common | values


def frames_field(config: Any) -> str:
    """The field of a config with the number of frames that the model takes: Whisper's max_length is that of texts."""
    return "frames" if hasattr(config, "frames") else "max_length"


def frames_of_model(config: Any) -> int:
    """The number of frames that a model takes."""
    frames: int = getattr(config, frames_field(config))
    return frames
