"""Spectrograms for AST and Whisper."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from zoo.preprocessing import filter_banks
from zoo.preprocessing.audio import Listening, _extractor, one_of

SHORT = 2  # seconds: longer clips gain nothing by being copied into one tensor


@dataclass(frozen=True, kw_only=True)
class SpectrogramPreprocess(Listening):
    """Sounds -> {"input_values": float32 [B, frames, bins]}, for Whisper {"input_features": [B, bins, frames]}.

    flavour: "kaldi" has its filter banks (AST), "log_mel" torchaudio's mel spectrogram, "whisper" Whisper's.
    frames, bins: shorter clips are padded, with zeros in place of log energies as AST has it (Whisper: with silence).
    length, shift: of a frame, in milliseconds. low, high: Hz between which the filters lie; high=None is half the rate.
    mean, std: the result is (x - mean) / std. AST's files hold half of this std.
    """

    kind: ClassVar[str] = "spectrogram"
    flavour: Literal["kaldi", "log_mel", "whisper"] = "kaldi"
    bins: int = 128
    frames: int = 1024
    length: float = 25.0
    shift: float = 10.0
    low: float = 20.0
    high: float | None = None
    mean: float = -4.2677393
    std: float = 2 * 4.5689974

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("flavour", self.flavour, ("kaldi", "log_mel", "whisper"))
        for name in ("bins", "frames", "length", "shift", "std"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected more than 0")
        if not 0 <= self.low < (self.high or self.rate / 2) <= self.rate / 2:
            raise ValueError(f"filters from {self.low:g} to {self.high or self.rate / 2:g} Hz at {self.rate} Hz")

    @property
    def limit(self) -> int:
        if self.flavour == "kaldi":
            return filter_banks.samples_of(self.frames + 1, self.rate, self.length, self.shift) - 1
        return self.frames * self._hop - (self.flavour == "log_mel")

    @property
    def least(self) -> int:
        """One frame; where edges are reflected, half of one and a sample. Whisper's clips are padded before."""
        if self.flavour == "whisper":
            return 1
        return (
            filter_banks.samples_of(1, self.rate, self.length, self.shift)
            if self.flavour == "kaldi"
            else self._fft // 2 + 1
        )

    @property
    def _hop(self) -> int:
        return int(self.rate * self.shift * 0.001)

    @property
    def _fft(self) -> int:
        return int(self.rate * self.length * 0.001)

    def batch(self, waves: list[Tensor]) -> dict[str, Tensor]:
        """Neighbours of one length are worked through together."""
        if self.flavour == "whisper":
            return {"input_features": torch.cat([self._whispers(wave[None]) for wave in waves])}
        out, done = torch.zeros(len(waves), self.frames, self.bins), 0
        for length, run in groupby(waves, len):
            together = length < SHORT * self.rate
            for clips in [torch.stack(list(run))] if together else [wave[None] for wave in run]:
                self._write_logs(clips, out[done : done + len(clips)])
                done += len(clips)
        for row in out:  # while it is in the cache
            row.sub_(self.mean).div_(self.std)
        return {"input_values": out}

    def _whispers(self, clips: Tensor) -> Tensor:
        return filter_banks.whisper_log_mel(
            clips, self.rate, bins=self.bins, fft=self._fft, hop=self._hop, frames=self.frames
        )

    def _write_logs(self, clips: Tensor, out: Tensor) -> None:
        """Clips [B, S] into out [B, frames, bins]; what lies behind their own frames is left as it is."""
        common: dict[str, Any] = dict(bins=self.bins, low=self.low, high=self.high)
        if self.flavour == "kaldi":
            frames = filter_banks.frames_of(clips.shape[1], self.rate, self.length, self.shift)
            filter_banks.fbank(clips, self.rate, length=self.length, shift=self.shift, out=out[:, :frames], **common)
        else:
            logs = filter_banks.log_mel(clips, self.rate, fft=self._fft, hop=self._hop, **common)
            out[:, : logs.shape[1]] = logs

    def fitted_to(self, config: Any) -> "SpectrogramPreprocess":
        return replace(self, frames=config.max_length, bins=config.mel_bins)

    def check(self, config: Any) -> None:
        for mine, its in (("frames", "max_length"), ("bins", "mel_bins")):
            if (want := getattr(config, its, None)) is not None and getattr(self, mine) != want:
                raise ValueError(f"{mine}={getattr(self, mine)} of the preprocessing, but the model has {its}={want}")

    @classmethod
    def from_transformers(cls, extractor: Mapping[str, Any]) -> "SpectrogramPreprocess":
        """From the `preprocessor_config.json` of ASTFeatureExtractor or WhisperFeatureExtractor; what it leaves out has
        the defaults of its class. Raises LoadError for what cannot be meant."""
        kind, values = _extractor(extractor, "ASTFeatureExtractor", "WhisperFeatureExtractor")
        rate = values["sampling_rate"]
        if kind == "WhisperFeatureExtractor":
            shift, length = (1000 * values[name] / rate for name in ("hop_length", "n_fft"))
            frames = values["chunk_length"] * rate // values["hop_length"]
            sizes: dict[str, Any] = dict(bins=values["feature_size"], frames=frames, length=length, shift=shift)
            return cls(flavour="whisper", rate=rate, low=0.0, mean=0.0, std=1.0, **sizes)
        mean, std = (values["mean"], 2 * values["std"]) if values["do_normalize"] else (0.0, 1.0)
        return cls(rate=rate, bins=values["num_mel_bins"], frames=values["max_length"], mean=mean, std=std)

    def to_transformers(self) -> dict[str, Any]:
        name = {"kaldi": "ASTFeatureExtractor", "whisper": "WhisperFeatureExtractor"}.get(self.flavour)
        if name is None:
            raise ValueError(f"transformers has no feature extractor for flavour={self.flavour!r}")
        common: dict[str, Any] = {"feature_extractor_type": name, "sampling_rate": self.rate, "padding_value": 0.0}
        common |= {"padding_side": "right", "return_attention_mask": False}
        if self.flavour == "whisper":
            seconds, rest = divmod(self.frames * self._hop, self.rate)
            values: dict[str, Any] = {
                "chunk_length": seconds,
                "feature_size": self.bins,
                "hop_length": self._hop,
                "n_fft": self._fft,
            }
            values |= {"n_samples": self.limit, "nb_max_frames": self.frames, "dither": 0.0}
        else:
            rest = 0
            values = {"num_mel_bins": self.bins, "max_length": self.frames, "feature_size": 1}
            values |= {"do_normalize": True, "mean": self.mean, "std": self.std / 2}
        again = type(self).from_transformers(common | values)
        if rest or replace(again, resample=self.resample, too_long=self.too_long) != self:
            raise ValueError(f"transformers' {name} cannot express {self}")
        return common | values
