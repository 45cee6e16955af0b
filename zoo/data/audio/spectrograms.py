"""Sounds as spectrograms in memory, gathered into batches, and augmented a batch at a time.

The features of a set are made once: for spoken digits that takes a third of a second, as much as one training step.
Shifts, tempo, pitch and loudness are then moves within a spectrogram, each clip with draws of its own, pure functions
of (seed, epoch, number).
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.audio.spec_augment import SpecAugment
from zoo.data.audio.tables import AudioClips
from zoo.data.augment_config import SpectrogramAugmentSettings
from zoo.data.keyed_batches import Keys
from zoo.preprocessing.filter_banks import frames_of
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.utils.keyed_random import KeyedRandom

_AT_ONCE = 256  # clips whose features are made together


class Spectrograms(Dataset[Any]):
    """Log mel spectrograms of different lengths, normalized. Batches: `input_values` [B, T, F], T that of the longest,
    `frames` [B] (how many are real), `labels` [B], `index` [B], `epoch`.
    """

    def __init__(self, values: Tensor, lengths: Tensor, labels: Tensor) -> None:
        self.values, self.lengths, self.labels = values, lengths, labels
        self.starts = lengths.cumsum(0) - lengths

    @classmethod
    def of(cls, clips: AudioClips, labels: Tensor, preprocess: SpectrogramFeatureExtractor) -> "Spectrograms":
        """All clips through a model's features. Raises: ValueError for a clip shorter than a frame, by its number."""
        lengths = torch.tensor([frames_in(preprocess, n) for n in clips.lengths.tolist()])
        if len(short := (lengths < 1).nonzero()):
            i = int(short[0, 0])
            raise ValueError(f"sound {i} has {int(clips.lengths[i])} samples, at least {preprocess.least} make a frame")
        parts = []
        for first in range(0, len(clips), _AT_ONCE):
            rows = range(first, min(first + _AT_ONCE, len(clips)))
            wide = replace(preprocess, frames=int(lengths[rows.start : rows.stop].max()))
            made = wide.batch([clips[i] for i in rows])["input_values"]
            parts += [one[:count] for one, count in zip(made, lengths[rows.start : rows.stop].tolist())]
        return cls(torch.cat(parts), lengths, labels)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        rows = torch.tensor(list(keys))
        lengths = self.lengths[rows]
        places = torch.arange(int(lengths.max()))
        source = (self.starts[rows, None] + places).clamp(max=len(self.values) - 1)
        found = {"input_values": self.values[source], "frames": lengths, "labels": self.labels[rows]}
        return found | {"index": rows, "epoch": torch.tensor(keys.epoch)}


def frames_in(preprocess: SpectrogramFeatureExtractor, samples: int) -> int:
    """How many frames a preprocessing makes of so many samples."""
    if preprocess.feature_type == "kaldi":
        return frames_of(samples, preprocess.sampling_rate, preprocess.frame_length, preprocess.frame_shift)
    hop = int(preprocess.sampling_rate * preprocess.frame_shift * 0.001)
    return samples // hop + 1 if samples >= preprocess.least else 0


def statistics(clips: AudioClips, preprocess: SpectrogramFeatureExtractor) -> tuple[float, float]:
    """Mean and standard deviation of all log energies of a set, padding left out."""
    plain = replace(preprocess, mean=0.0, std=1.0)
    values = Spectrograms.of(clips, torch.zeros(len(clips)), plain).values.double()
    return values.mean().item(), max(values.std().item(), 1e-3)


class SpectrogramAugment:
    """Makes the model's batch of a raw one: each clip at its place in the window, in training augmented.

    In evaluation a clip stands at the beginning, as `model.preprocess` has it; of one that is longer than the window
    the middle is taken. In training a longer one is heard at another place in each epoch.

    Args:
        settings: What is done in training.
        preprocess: Of the model: its window, and what padding is in its units.
    """

    def __init__(self, settings: SpectrogramAugmentSettings, preprocess: SpectrogramFeatureExtractor) -> None:
        s = self.settings = settings
        self.hide = SpecAugment(freq_masks=s.freq_masks, freq_width=s.freq_width, time_masks=s.time_masks,
                                time_width=s.time_width)  # fmt: skip
        self.frames = preprocess.frames
        self.padding = -preprocess.mean / preprocess.std
        self.decibel = math.log(10) / 10 / preprocess.std

    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Tensor]:
        """batch: of Spectrograms. Returns input_values [B, frames, F], labels and targets [B]."""
        values, lengths, labels = batch["input_values"], batch["frames"], batch["labels"]
        if not train:
            window = self._window(values, lengths, (lengths - self.frames).clamp(min=0) // 2, torch.zeros_like(lengths))
            return {"input_values": window, "labels": labels, "targets": labels}
        draws, s = KeyedRandom(seed, batch["epoch"], batch["index"]), self.settings
        speed = 1 + s.time_stretch * (2 * draws.uniform("hear/stretch") - 1)
        after = ((lengths - 1) / speed).long() + 1  # frames once it is played at that speed
        start = draws.integers("hear/start", (after - self.frames).clamp(min=0) + 1) * speed
        room = (self.frames - after).clamp(min=0) + 1
        offset = draws.integers("hear/shift", room) if s.time_shift else torch.zeros_like(lengths)
        if s.pitch_shift:
            values = tilted(values, draws.integers("hear/tilt", 2 * s.pitch_shift + 1) - s.pitch_shift)
        if s.gain:
            values = values + (self.decibel * s.gain * (2 * draws.uniform("hear/gain") - 1))[:, None, None]
        window = self._window(values, lengths, start, offset, speed)
        return {"input_values": self.hide.hidden(window, draws), "labels": labels, "targets": labels}

    def _window(
        self, values: Tensor, lengths: Tensor, start: Tensor, offset: Tensor, speed: Tensor | None = None
    ) -> Tensor:
        """[B, T, F] -> [B, frames, F]: frame t is what stands at start + (t - offset) * speed, between two frames by
        their mean; where there is nothing, padding."""
        time = torch.arange(self.frames, device=values.device) - offset[:, None]  # [B, frames]
        place = start[:, None] + (time if speed is None else time * speed[:, None])
        there = (time >= 0) & (place <= lengths[:, None] - 1)
        place = place.clamp(min=0).minimum(lengths[:, None] - 1)
        before = place.long()
        window = _at(values, before)
        if speed is not None:
            share = (place - before)[:, :, None].to(values.dtype)
            window = window.lerp(_at(values, (before + 1).minimum(lengths[:, None] - 1)), share)
        return window.masked_fill(~there[:, :, None], self.padding)


def tilted(values: Tensor, by: Tensor) -> Tensor:
    """[B, T, F] moved by so many mel bins [B] up; at the edges the last bin stands in for those that are missing."""
    bins = torch.arange(values.shape[2], device=values.device) - by[:, None]
    source = bins.clamp(0, values.shape[2] - 1)
    return values.gather(2, source[:, None].expand(-1, values.shape[1], -1))


def _at(values: Tensor, places: Tensor) -> Tensor:
    """values [B, T, F] at frames [B, N] -> [B, N, F]."""
    return values.gather(1, places[:, :, None].expand(-1, -1, values.shape[2]))
