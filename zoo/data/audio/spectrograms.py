"""Audio clips as log mel spectrograms in memory, collated into batches and augmented batch by batch.

The features of a dataset are computed once. Time shift, tempo, pitch and volume changes are then applied to the
spectrogram, independently for each clip and as a pure function of (seed, epoch, index).
"""

import math
from collections.abc import Iterable, Mapping
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
from zoo.utils.console import announce
from zoo.utils.keyed_random import KeyedRandom

_CHUNK = 256  # clips per feature extraction


class Spectrograms(Dataset[Any]):
    """Dataset of normalized log mel spectrograms of different lengths.

    Batches: `input_values` [B, T, F] with the T of the longest clip, `frames` [B] (number of frames without padding),
    `labels` [B], `index` [B], `epoch`.
    """

    def __init__(self, values: Tensor, lengths: Tensor, labels: Tensor) -> None:
        self.values, self.lengths, self.labels = values, lengths, labels
        self.starts = lengths.cumsum(0) - lengths

    @classmethod
    def of(cls, clips: AudioClips, labels: Tensor, preprocess: SpectrogramFeatureExtractor) -> "Spectrograms":
        """Extract the features of all clips. Raises: ValueError naming a clip that is shorter than a frame."""
        lengths = torch.tensor([frames_in(preprocess, n) for n in clips.lengths.tolist()])
        if len(short := (lengths < 1).nonzero()):
            i = int(short[0, 0])
            raise ValueError(f"clip {i} has {int(clips.lengths[i])} samples, a frame needs {preprocess.min_samples}")
        parts = []
        for first in range(0, len(clips), _CHUNK):
            rows = range(first, min(first + _CHUNK, len(clips)))
            chunk = replace(preprocess, frames=int(lengths[rows.start : rows.stop].max()))
            features = chunk.batch([clips[i] for i in rows])["input_values"]
            parts += [one[:count] for one, count in zip(features, lengths[rows.start : rows.stop].tolist())]
        return cls(torch.cat(parts), lengths, labels)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        rows = torch.tensor(list(keys))
        lengths = self.lengths[rows]
        positions = torch.arange(int(lengths.max()))
        source = (self.starts[rows, None] + positions).clamp(max=len(self.values) - 1)
        batch: dict[str, Any] = {"input_values": self.values[source], "frames": lengths, "labels": self.labels[rows]}
        return batch | {"index": rows, "epoch": keys.epoch}


def frames_in(preprocess: SpectrogramFeatureExtractor, samples: int) -> int:
    """Number of frames of a clip with `samples` samples."""
    if preprocess.feature_type == "kaldi":
        return frames_of(samples, preprocess.sampling_rate, preprocess.frame_length, preprocess.frame_shift)
    hop = int(preprocess.sampling_rate * preprocess.frame_shift * 0.001)
    return samples // hop + 1 if samples >= preprocess.min_samples else 0


def announce_cropped(datasets: Iterable[Spectrograms], preprocess: SpectrogramFeatureExtractor) -> None:
    """Say how many clips are longer than the model's input window; the same dataset counts once."""
    parts = {id(part): part for part in datasets}.values()
    if too_long := sum(int((part.lengths > preprocess.frames).sum()) for part in parts):
        window = preprocess.max_samples / preprocess.sampling_rate
        announce(f"{too_long} clips are longer than the {window:.2f} s that the model takes: training uses a different "
                 f"part of each in every epoch, evaluation the middle (increase max_duration=)")  # fmt: skip


def statistics(clips: AudioClips, preprocess: SpectrogramFeatureExtractor) -> tuple[float, float]:
    """Mean and standard deviation of all log mel energies of a dataset, without padding."""
    plain = replace(preprocess, mean=0.0, std=1.0)
    values = Spectrograms.of(clips, torch.zeros(len(clips)), plain).values.double()
    return values.mean().item(), max(values.std().item(), 1e-3)


class SpectrogramAugment:
    """Pads or crops a batch of spectrograms to the model's input window and augments it in training.

    In evaluation, short clips start at frame 0, as in `model.preprocess`, and long clips are center-cropped. In
    training, long clips are cropped at a random position.

    Args:
        settings: Augmentation in training.
        preprocess: Feature extractor of the model; defines the window and the padding value.
    """

    def __init__(self, settings: SpectrogramAugmentSettings, preprocess: SpectrogramFeatureExtractor) -> None:
        s = self.settings = settings
        self.spec_augment = SpecAugment(freq_masks=s.freq_masks, freq_width=s.freq_width, time_masks=s.time_masks,
                                        time_width=s.time_width)  # fmt: skip
        self.frames = preprocess.frames
        self.padding = -preprocess.mean / preprocess.std
        self.decibel = math.log(10) / 10 / preprocess.std

    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Tensor]:
        """Convert a batch of Spectrograms to input_values [B, frames, F], labels [B] and targets [B]."""
        values, lengths, labels = batch["input_values"], batch["frames"], batch["labels"]
        if not train:
            window = self._window(values, lengths, (lengths - self.frames).clamp(min=0) // 2, torch.zeros_like(lengths))
            return {"input_values": window, "labels": labels, "targets": labels}
        rng, s = KeyedRandom(seed, batch["epoch"], batch["index"]), self.settings
        speed = 1 + s.time_stretch * (2 * rng.uniform("hear/stretch") - 1)
        stretched = ((lengths - 1) / speed).long() + 1  # frames at that speed
        start = rng.integers("hear/start", (stretched - self.frames).clamp(min=0) + 1) * speed
        room = (self.frames - stretched).clamp(min=0) + 1
        offset = rng.integers("hear/shift", room) if s.time_shift else torch.zeros_like(lengths)
        if s.pitch_shift:
            values = shift_pitch(values, rng.integers("hear/tilt", 2 * s.pitch_shift + 1) - s.pitch_shift)
        if s.gain:
            values = values + (self.decibel * s.gain * (2 * rng.uniform("hear/gain") - 1))[:, None, None]
        window = self._window(values, lengths, start, offset, speed)
        return {"input_values": self.spec_augment.hidden(window, rng), "labels": labels, "targets": labels}

    def _window(
        self, values: Tensor, lengths: Tensor, start: Tensor, offset: Tensor, speed: Tensor | None = None
    ) -> Tensor:
        """Resample values [B, T, F] to the window [B, frames, F].

        Output frame t is input frame start + (t - offset) * speed, linearly interpolated; frames outside are padding.
        """
        time = torch.arange(self.frames, device=values.device) - offset[:, None]  # [B, frames]
        position = start[:, None] + (time if speed is None else time * speed[:, None])
        valid = (time >= 0) & (position <= lengths[:, None] - 1)
        position = position.clamp(min=0).minimum(lengths[:, None] - 1)
        before = position.long()
        window = _at(values, before)
        if speed is not None:
            weight = (position - before)[:, :, None].to(values.dtype)
            window = window.lerp(_at(values, (before + 1).minimum(lengths[:, None] - 1)), weight)
        return window.masked_fill(~valid[:, :, None], self.padding)


def shift_pitch(values: Tensor, by: Tensor) -> Tensor:
    """Shift values [B, T, F] up by `by` mel bins [B]; the edge bin is repeated."""
    bins = torch.arange(values.shape[2], device=values.device) - by[:, None]
    source = bins.clamp(0, values.shape[2] - 1)
    return values.gather(2, source[:, None].expand(-1, values.shape[1], -1))


def _at(values: Tensor, frames: Tensor) -> Tensor:
    """Select frames [B, N] of values [B, T, F] -> [B, N, F]."""
    return values.gather(1, frames[:, :, None].expand(-1, -1, values.shape[2]))
