"""Image-text and audio-text pairs in reproducible batches, with sampled captions and batched augmentation."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.audio.spectrograms import SpectrogramAugment, Spectrograms, announce_cropped
from zoo.data.audio.tables import AudioClips
from zoo.data.augment_config import AugmentSettings, SpectrogramAugmentSettings
from zoo.data.config import no_augment
from zoo.data.datamodule import PreparedDataModule
from zoo.data.image.augment import Augment
from zoo.data.keyed_batches import KeyedBatches, Keys
from zoo.data.pairs.dataset import PairDataset, PairSplits
from zoo.data.pairs.sides import mentions_sides
from zoo.data.pairs.streamed import StreamedPairRows, StreamedPairs
from zoo.data.text.datamodule import TokenDataset
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.preprocessing.text import TextProcessor, Truncate
from zoo.utils.keyed_random import KeyedRandom, seed_for
from zoo.utils.transfer import to_device


class PairRows(Dataset[Any]):
    """Dataset of pairs in memory.

    Batches: the batch of `items`, `input_ids`, `attention_mask` [B, N], `lengths` (a list), `index` [B], `epoch`, and
    with classes `positives` [B]: pairs with equal values are positives of each other.

    Args:
        pairs: The pairs, for their captions.
        items: Dataset that returns a whole batch from `__getitems__(keys)`, or tensors [N, ...] by model input name.
        preprocess: The tokenizer.
        seed: Samples the caption of an item by (seed, epoch, index) in training; None uses the first caption.
        max_length: Maximum number of tokens per caption.
        truncate: How to handle longer captions; see TextProcessor.
    """

    def __init__(self, pairs: PairDataset[Any], items: Any, preprocess: TextProcessor, *, seed: int | None = None,
                 max_length: int = 0, truncate: Truncate = "warn") -> None:  # fmt: skip
        flat = [text for captions in pairs.captions for text in captions]
        self.tokens = TokenDataset.of(flat, preprocess, max_length=max_length, truncate=truncate)
        self.count = torch.tensor([len(captions) for captions in pairs.captions])
        self.first = self.count.cumsum(0) - self.count
        self.items = PairBatches(items) if isinstance(items, Mapping) else items
        self.seed, self.family, self.classes = seed, pairs.family, pairs.classes

    def __len__(self) -> int:
        return len(self.count)

    def captions_of(self, rows: Tensor, epoch: int) -> Tensor:
        """Index of the caption of each row in an epoch, int64 [B]."""
        if self.seed is None:
            return self.first[rows]
        return self.first[rows] + KeyedRandom(self.seed, epoch, rows).integers("caption", self.count[rows])

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        rows = torch.tensor(list(keys))
        texts = self.tokens.__getitems__(Keys(self.captions_of(rows, keys.epoch).tolist(), keys.epoch))
        batch = dict(self.items.__getitems__(keys))
        batch |= {name: texts[name] for name in ("input_ids", "attention_mask", "lengths")}
        if self.classes is not None:
            batch["positives"] = self.classes[rows]
        return batch | {"index": rows, "epoch": keys.epoch}


class PairBatches(Dataset[Any]):
    """Batches of tensors [N, ...]; waveforms with a mask are trimmed to the longest clip of the batch, and have
    `audio_lengths` (a list)."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        rows = torch.tensor(list(keys))
        batch: dict[str, Any] = {name: values[rows] for name, values in self.tensors.items()}
        if (mask := batch.get("audio_attention_mask")) is None:
            return batch
        lengths = mask.sum(1).tolist()
        return {name: values[:, : max(lengths)] for name, values in batch.items()} | {"audio_lengths": lengths}


class FamilyBatches(KeyedBatches):
    """KeyedBatches that keep families of consecutive rows together."""

    def __init__(self, n: int, batch_size: int, *, family: int, **options: Any) -> None:
        super().__init__(n, batch_size, **options)
        self.family = family

    def order(self, epoch: int) -> Tensor:
        """Sample order of an epoch: families in random order, an incomplete last family at the end."""
        count = self.n // self.family
        generator = torch.Generator().manual_seed(seed_for(self.seed, epoch, self.family))
        families = torch.randperm(count, generator=generator)
        rows = (families[:, None] * self.family + torch.arange(self.family)).flatten()
        return torch.cat([rows, torch.arange(len(rows), self.n)])


class PairDataModule(PreparedDataModule):
    """Data module of pairs; batches are converted to model inputs after their transfer to the device.

    Args:
        splits: Dataset splits from `load_pairs` or `load_audio_pairs`.
        preprocess: Processor of the model, `model.preprocess`: of texts, and of images or audio.
        batch_size: Pairs per optimizer step, summed over all devices.
        augment: Augmentation of the training images or spectrograms. Default: none for images.
        max_length: Maximum number of tokens per caption; 0 is that of the tokenizer. Longer captions are truncated with
            a warning.
        seed: Seed of the order, of the sampled captions and of the augmentation.
        options: Options of `KeyedDataModule`.
    """

    kept = ("input_ids", "attention_mask", "lengths", "positives", "index", "epoch")
    smallest_batch = 2  # the contrastive loss compares pairs

    def __init__(self, splits: PairSplits[Any], preprocess: MultimodalProcessor, batch_size: int = 128, *,
                 augment: AugmentSettings | SpectrogramAugmentSettings | None = None, max_length: int = 0,
                 seed: int = 0, **options: Any) -> None:  # fmt: skip
        self.preprocess, self.max_length, self.seed = preprocess, max_length, seed
        super().__init__(splits, batch_size, dataset=self.rows, seed=seed, **options)
        if not isinstance(splits.train.items, AudioClips):
            settings = augment if isinstance(augment, AugmentSettings) else no_augment()
            self.prepare = ImageBatch(settings, preprocess.image, may_be_mirrored(splits.train))
        else:
            self.prepare = AudioBatch(self._spectrogram_augment(augment))

    def _spectrogram_augment(self, augment: Any) -> SpectrogramAugment | None:
        """The augmentation of spectrograms; None for a model that takes waveforms."""
        extractor = self.preprocess.audio
        if not isinstance(extractor, SpectrogramFeatureExtractor):
            return None
        announce_cropped([rows.items for rows in (self.train, self.val, self.test)], extractor)
        return SpectrogramAugment(augment or SpectrogramAugmentSettings(), extractor)

    def rows(self, pairs: PairDataset[Any], training: bool = False) -> Any:
        """The dataset of some pairs; in training it samples the caption of each item."""
        if isinstance(pairs, StreamedPairs):
            return StreamedPairRows(pairs, self.preprocess.text, seed=self.seed if training else None,
                                    max_length=self.max_length)  # fmt: skip
        clips = pairs.items
        items = {"pixel_values": clips} if isinstance(clips, Tensor) else audio_features(clips, self.preprocess.audio)
        return PairRows(pairs, items, self.preprocess.text, seed=self.seed if training else None,
                        max_length=self.max_length)  # fmt: skip

    def batches(self, **place: Any) -> KeyedBatches:
        """The batch sampler of training, which keeps families together."""
        if isinstance(self.train, StreamedPairRows) or self.train.family == 1:
            return super().batches(**place)
        return FamilyBatches(len(self.train), self.batch_size, family=self.train.family, seed=self.seed, **place)


def audio_features(clips: AudioClips, extractor: Any) -> Any:
    """Inputs of the audio tower, computed once for all clips: Spectrograms, or waveforms with their mask."""
    if isinstance(extractor, SpectrogramFeatureExtractor):
        return Spectrograms.of(clips, torch.zeros(len(clips), dtype=torch.int64), extractor)
    batch = extractor.batch([clips[i] for i in range(len(clips))])
    return {{"attention_mask": "audio_attention_mask"}.get(name, name): value for name, value in batch.items()}


class ImageBatch:
    """`prepare` of images: augmentation in training, and normalization as in the model's preprocess.

    Args:
        settings: Augmentation in training.
        preprocess: ImageProcessor of the image tower.
        mirrors: bool [N]: training images that may be flipped.
    """

    def __init__(self, settings: Any, preprocess: Any, mirrors: Tensor) -> None:
        self.augment, self.mirrors, self.channels = (
            Augment(settings, *preprocess.statistics()),
            mirrors,
            preprocess.channels,
        )

    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Tensor]:
        """pixel_values uint8 [B, 3, H, W] -> float [B, C, H, W]."""
        rows = batch["index"]
        raw = {"pixel_values": batch["pixel_values"][:, : self.channels], "labels": rows, "index": rows,
               "epoch": batch["epoch"]}  # fmt: skip
        if train and "mirrors" in batch:
            raw["mirrors"] = batch["mirrors"]
        elif train:
            self.mirrors = to_device(self.mirrors, rows.device)
            raw["mirrors"] = self.mirrors[rows]
        return {"pixel_values": self.augment(raw, seed=seed, step=step, train=train)["pixel_values"]}


class AudioBatch:
    """`prepare` of audio clips: spectrograms are fitted to the model's window and augmented, waveforms pass unchanged.

    Args:
        spectrograms: SpectrogramAugment of the model; None for waveforms.
    """

    def __init__(self, spectrograms: Any | None) -> None:
        self.spectrograms = spectrograms

    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Any]:
        """input_values [B, T, F], or [B, S] with their mask and lengths."""
        if self.spectrograms is None:
            names = ("input_values", "audio_attention_mask", "audio_lengths")
            return {name: batch[name] for name in names if name in batch}
        return {"input_values": self.spectrograms(batch, seed=seed, step=step, train=train)["input_values"]}


def may_be_mirrored(pairs: PairDataset[Any]) -> Tensor:
    """bool [N]: items whose captions do not mention left or right, so that the image may be flipped.

    Of images in shards, [0]: their batches say it.
    """
    if isinstance(pairs, StreamedPairs):
        return torch.empty(0, dtype=torch.bool)
    return torch.tensor([not any(map(mentions_sides, captions)) for captions in pairs.captions])
