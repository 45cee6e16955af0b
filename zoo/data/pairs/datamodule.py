"""Pairs in batches that are keyed by the step: things, one drawn caption of each, augmentation on whole batches."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.datamodule import KeyedDataModule
from zoo.data.image.augment import Augment
from zoo.data.keyed_batches import KeyedBatches, Keys
from zoo.data.pairs.dataset import PairDataset
from zoo.data.text.datamodule import TokenDataset
from zoo.preprocessing.text import TextProcessor, Truncate
from zoo.utils.keyed_random import KeyedRandom, seed_for

Prepare = Callable[..., dict[str, Tensor]]
"""prepare(batch, seed=, step=, train=): what the model takes of a raw batch, on its device."""


class PairRows(Dataset[Any]):
    """A set of pairs in memory. Batches: what the things' own set gathers, `input_ids`, `attention_mask` [B, N],
    `index` [B], `epoch`; with classes, `positives` [B]: pairs with equal numbers describe each other as well.

    Args:
        pairs: Their captions.
        items: Gathers a whole batch by `__getitems__(keys)`; or tensors [N, ...] by the names of the model's inputs.
        preprocess: The tokenizer.
        seed: In training, the caption of a thing is drawn by (seed, epoch, index); None takes the first.
        max_length: Tokens that a caption may have.
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
        """Which caption each of these rows shows in an epoch, int64 [B]."""
        if self.seed is None:
            return self.first[rows]
        return self.first[rows] + KeyedRandom(self.seed, epoch, rows).integers("caption", self.count[rows])

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        rows = torch.tensor(list(keys))
        texts = self.tokens.__getitems__(Keys(self.captions_of(rows, keys.epoch).tolist(), keys.epoch))
        batch = dict(self.items.__getitems__(keys))
        batch |= {name: texts[name] for name in ("input_ids", "attention_mask")}
        if self.classes is not None:
            batch["positives"] = self.classes[rows]
        return batch | {"index": rows, "epoch": torch.tensor(keys.epoch)}


class PairBatches(Dataset[Any]):
    """Tensors [N, ...]; waveforms with a mask are cut to the longest in the batch."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        rows = torch.tensor(list(keys))
        batch = {name: values[rows] for name, values in self.tensors.items()}
        if (mask := batch.get("audio_attention_mask")) is None:
            return batch
        return {name: values[:, : int(mask.sum(1).max())] for name, values in batch.items()}


class FamilyBatches(KeyedBatches):
    """KeyedBatches in which families of rows that follow each other stay together."""

    def __init__(self, n: int, batch_size: int, *, family: int, **options: Any) -> None:
        super().__init__(n, batch_size, **options)
        self.family = family

    def order(self, epoch: int) -> Tensor:
        """Families in random order, the rest of the last one at the end."""
        whole = self.n // self.family
        draw = torch.Generator().manual_seed(seed_for(self.seed, epoch, self.family))
        families = torch.randperm(whole, generator=draw)
        rows = (families[:, None] * self.family + torch.arange(self.family)).flatten()
        return torch.cat([rows, torch.arange(len(rows), self.n)])


class PairDataModule(KeyedDataModule):
    """Pairs in batches keyed by the step, made ready for the model behind their transfer to its device.

    Args:
        train, val, test: PairRows.
        prepare: Augments and normalizes a raw batch; called with train=True in training alone.
        options: Of KeyedDataModule.

    Attributes:
        shown: The test pairs as they came, for pictures of the result.
    """

    items = "pairs"
    shown: PairDataset[Any] | None = None

    def __init__(self, train: PairRows, val: PairRows, test: PairRows, batch_size: int, *, prepare: Prepare,
                 **options: Any) -> None:  # fmt: skip
        super().__init__(train, val, test, batch_size, **options)
        self.prepare, self.extra = prepare, ("input_ids", "attention_mask", "positives", "index", "epoch")
        self.refuse_too_few()

    def batches(self, **place: Any) -> KeyedBatches:
        """The order of training, families kept together."""
        if self.train.family == 1:
            return super().batches(**place)
        return FamilyBatches(len(self.train), self.batch_size, family=self.train.family, seed=self.seed, **place)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> dict[str, Any]:
        """What the task receives."""
        trainer = self.trainer
        training = trainer is not None and trainer.training
        return self.ready(batch, step=trainer.global_step if trainer else 0, train=training)

    def ready(self, batch: Mapping[str, Any], *, step: int = 0, train: bool = False) -> dict[str, Any]:
        """A raw batch as the task receives it."""
        made = self.prepare(batch, seed=self.seed, step=step, train=train)
        return made | {name: batch[name] for name in self.extra if name in batch}

    def sample(self, count: int = 32) -> dict[str, Any]:
        """A small batch as the task receives it, to measure with."""
        return self.ready(super().sample(count))


class ImageBatch:
    """prepare() of pictures: augmentation, where allowed, and the normalization of the model's preprocess.

    Args:
        settings: What to do in training.
        preprocess: The image tower's.
        mirrors: bool [N], of the training pictures: whether they may be mirrored.
    """

    def __init__(self, settings: Any, preprocess: Any, mirrors: Tensor) -> None:
        mean, std = (_each(value, preprocess.channels) for value in (preprocess.mean, preprocess.std))
        self.augment, self.mirrors, self.channels = Augment(settings, mean, std), mirrors, preprocess.channels

    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Tensor]:
        """pixel_values uint8 [B, 3, H, W] -> float [B, C, H, W]."""
        rows = batch["index"]
        raw = {"pixel_values": batch["pixel_values"][:, : self.channels], "labels": rows, "index": rows,
               "epoch": batch["epoch"]}  # fmt: skip
        if train:
            raw["mirrors"] = self.mirrors[rows.cpu()].to(rows.device)
        return {"pixel_values": self.augment(raw, seed=seed, step=step, train=train)["pixel_values"]}


class AudioBatch:
    """prepare() of sounds: spectrograms in the model's window, in training augmented; waveforms as they are.

    Args:
        hear: Of spectrograms; None for waveforms.
    """

    def __init__(self, hear: Any | None) -> None:
        self.hear = hear

    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Tensor]:
        """input_values [B, T, F], or [B, S] with their mask."""
        if self.hear is None:
            return {name: batch[name] for name in ("input_values", "audio_attention_mask") if name in batch}
        return {"input_values": self.hear(batch, seed=seed, step=step, train=train)["input_values"]}


def may_be_mirrored(pairs: PairDataset[Any]) -> Tensor:
    """bool [N]: things none of whose captions speaks of left or right."""
    return torch.tensor([not any(_SIDED & set(_words(text)) for text in captions) for captions in pairs.captions])


_SIDED = {"left", "right", "leftwards", "rightwards", "leftward", "rightward", "clockwise", "counterclockwise",
          "anticlockwise", "east", "west"}  # fmt: skip


def _words(text: str) -> list[str]:
    return "".join(c if c.isalpha() else " " for c in text.lower()).split()


def _each(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values * channels if len(values) == 1 else values
