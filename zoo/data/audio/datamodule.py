"""Data module of labeled audio clips as log mel spectrograms."""

from typing import Any

import torch
from torch import Tensor

from zoo.data.audio.dataset import AudioDataset, AudioSplits
from zoo.data.audio.spectrograms import SpectrogramAugment, Spectrograms, announce_cropped
from zoo.data.audio.streamed import StreamedAudio, StreamedSpectrograms
from zoo.data.augment_config import SpectrogramAugmentSettings
from zoo.data.datamodule import KeyedDataModule
from zoo.data.keyed_batches import Keys
from zoo.data.splits import balanced_rows
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor

_CHUNK = 64  # clips of shards that are read at a time


class AudioDataModule(KeyedDataModule):
    """Data module of labeled audio clips; see `Spectrograms` for its batches.

    The spectrograms are computed once; those of clips in shards are computed batch by batch.

    Args:
        splits: Dataset splits from `load_audio`.
        preprocess: Feature extractor of the model, `model.preprocess`.
        batch_size: Clips per optimizer step, summed over all devices and accumulation steps.
        augment: Augmentation of the training clips.
        options: Options of `KeyedDataModule`.

    Attributes:
        augment: Turns a raw batch into a batch of the model; the task applies it, `data.augment(batch, seed=..., ...)`.

    Raises: ValueError for a clip that is shorter than a frame.
    """

    features = "log mel statistics"

    def __init__(self, splits: AudioSplits, preprocess: SpectrogramFeatureExtractor, batch_size: int = 32, *,
                 augment: SpectrogramAugmentSettings | None = None, **options: Any) -> None:  # fmt: skip
        def spectrograms(part: AudioDataset, training: bool) -> Spectrograms | StreamedSpectrograms:
            if isinstance(part, StreamedAudio):
                return StreamedSpectrograms(part, preprocess)
            return Spectrograms.of(part.clips, part.labels, preprocess)

        super().__init__(splits, batch_size, dataset=spectrograms, **options)
        self.augment = SpectrogramAugment(augment or SpectrogramAugmentSettings(), preprocess)
        whole = [part for part in (self.train, self.val, self.test) if isinstance(part, Spectrograms)]
        announce_cropped(whole, preprocess)

    def simple_features(self, stage: str, rows: Tensor) -> Tensor:
        """Mean and standard deviation of each mel bin over time, float32 [n, 2 F]."""
        clips: Spectrograms | StreamedSpectrograms = getattr(self, stage)
        if isinstance(clips, StreamedSpectrograms):
            return torch.cat([clips.means_and_deviations(part) for part in rows.split(_CHUNK)])
        frames = [clips.values.narrow(0, int(clips.starts[i]), int(clips.lengths[i])) for i in rows.tolist()]
        return torch.stack([torch.cat([clip.mean(0), clip.std(0, correction=0)]) for clip in frames])

    def first_clip(self) -> tuple[Tensor, int]:
        """(waveform [S], sampling rate) of the first clip of the test set."""
        clips = self.splits.test.clips
        return clips[0], clips.sampling_rate

    def sample_spectrograms(self, count: int) -> tuple[Tensor, list[int]]:
        """(spectrograms [count, T, F], labels) of test clips from as many classes as possible."""
        rows = balanced_rows(self.test.labels, min(count, len(self.test)), self.seed)
        batch = self.augment(self.test.__getitems__(Keys(rows.tolist(), 0)), seed=self.seed, step=0, train=False)
        return batch["input_values"], batch["labels"].tolist()
