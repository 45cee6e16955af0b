"""Tokenized texts in memory, collated into batches: texts of different lengths, and chunks of one long text."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.datamodule import KeyedDataModule
from zoo.data.keyed_batches import KeyedBatches, Keys
from zoo.data.text.dataset import Text
from zoo.preprocessing.text import TextProcessor, Truncate
from zoo.utils.keyed_random import seed_for

POOL = 32  # batches per pool that is sorted by length


class TokenDataset(Dataset[Any]):
    """Dataset of tokenized texts of different lengths.

    Batches: `input_ids`, `attention_mask` and, if the model uses them, `token_type_ids` [B, N] with the N of the
        longest
    text of the batch, `labels` if present, `index` [B], `epoch`. Padding is on the right; models skip it.
    """

    def __init__(self, ids: list[list[int]], labels: Tensor | None = None, *, pad: int = 0,
                 types: list[list[int]] | None = None) -> None:  # fmt: skip
        self.lengths = torch.tensor([len(row) for row in ids])
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.ids = _flat(ids)
        self.types = None if types is None else _flat(types)
        self.labels, self.pad = labels, pad

    @classmethod
    def of(cls, texts: Sequence[Text], preprocess: TextProcessor, labels: Tensor | None = None, *,
           max_length: int = 0, truncate: Truncate = "warn") -> "TokenDataset":  # fmt: skip
        """Tokenize texts to at most `max_length` tokens each (0: the maximum of the tokenizer).

        Raises: ValueError for a text without tokens, and with truncate="error" for a text that is too long.
        """
        limit = min(max_length or preprocess.max_length, preprocess.max_length)
        encoded = replace(preprocess, max_length=limit, truncate=truncate)._encode(list(texts))
        types = [text.type_ids for text in encoded] if preprocess.types else None
        return cls([text.ids for text in encoded], labels, pad=preprocess.id("pad") or 0, types=types)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        rows = torch.tensor(list(keys))
        lengths = self.lengths[rows, None]
        positions = torch.arange(int(lengths.max()))
        real = positions < lengths
        source = (self.starts[rows, None] + positions).clamp(max=len(self.ids) - 1)
        batch = {"input_ids": self.ids[source].long().masked_fill(~real, self.pad), "attention_mask": real.long()}
        if self.types is not None:
            batch["token_type_ids"] = self.types[source].long() * real
        if self.labels is not None:
            batch["labels"] = self.labels[rows]
        return batch | {"index": rows, "epoch": torch.tensor(keys.epoch)}


class TextChunks(Dataset[Any]):
    """Dataset of chunks of `length` tokens of one long text.

    Batches: `input_ids`, `labels` (the next tokens) [B, N], `index`, `epoch`. With `moving`, the chunks start at a
    different offset in each epoch, a pure function of (seed, epoch).
    """

    def __init__(self, ids: Tensor, length: int, *, moving: bool = False, seed: int = 0) -> None:
        if len(ids) < length + 1:
            raise ValueError(f"a text of {len(ids)} tokens is too short for a chunk of {length} tokens and the next "
                             f"token; use a longer text or a smaller max_length")  # fmt: skip
        self.ids, self.length, self.moving, self.seed = ids, length, moving, seed
        self.count = (len(ids) - 1) // length - (1 if moving and len(ids) > 2 * length else 0)

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        rows = torch.tensor(list(keys))
        room = len(self.ids) - 1 - self.count * self.length
        start = seed_for(self.seed, keys.epoch, self.length) % (room + 1) if self.moving else 0
        chunk = self.ids[start + rows[:, None] * self.length + torch.arange(self.length + 1)].long()
        batch = {"input_ids": chunk[:, :-1], "labels": chunk[:, 1:]}
        return batch | {"index": rows, "epoch": torch.tensor(keys.epoch)}


class GroupedByLengthBatches(KeyedBatches):
    """KeyedBatches of items of similar length, as a pure function of (seed, epoch).

    The random order is divided into pools; each pool is sorted by length and cut into batches, which are then shuffled.

    Args:
        lengths: Length of each sample, int64 [n].
        batch_size: Samples per optimizer step.
        options: Options of KeyedBatches.
    """

    def __init__(self, lengths: Tensor, batch_size: int, **options: Any) -> None:
        super().__init__(len(lengths), batch_size, **options)
        self.lengths = lengths

    def order(self, epoch: int) -> Tensor:
        order = super().order(epoch)
        full = order[: self.steps * self.batch_size]
        pools = full.split(POOL * self.batch_size)
        batches = torch.cat([pool[self.lengths[pool].argsort(stable=True)] for pool in pools]).view(self.steps, -1)
        generator = torch.Generator().manual_seed(seed_for(self.seed, epoch, 1))
        return torch.cat([batches[torch.randperm(self.steps, generator=generator)].flatten(), order[full.numel() :]])


class GroupedByLengthDataModule(KeyedDataModule):
    """Data module of items of different lengths.

    Args:
        train, val, test: TokenDataset, TextChunks, or other datasets; grouping needs a `lengths` attribute.
        batch_size: Items per optimizer step, summed over all devices and accumulation steps.
        group_by_length: Group items of similar length into the same batch.
        options: Options of KeyedDataModule.
    """

    def __init__(
        self, train: Any, val: Any, test: Any, batch_size: int, *, group_by_length: bool = True, **options: Any
    ) -> None:
        super().__init__(train, val, test, batch_size, **options)
        self.group_by_length = group_by_length and hasattr(train, "lengths")

    def batches(self, **place: Any) -> KeyedBatches:
        if not self.group_by_length:
            return super().batches(**place)
        return GroupedByLengthBatches(self.train.lengths, self.batch_size, seed=self.seed, **place)


def _flat(rows: list[list[int]]) -> Tensor:
    return torch.tensor([value for row in rows for value in row], dtype=torch.int32)
