"""Texts as token ids in memory, gathered into batches: ragged texts, and pieces of one long text."""

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

POOL = 32  # batches that are sorted by length together


class TokenDataset(Dataset[Any]):
    """Texts of different lengths. Batches: `input_ids`, `attention_mask` [, `token_type_ids`] [B, N], N that of the
    longest text in the batch, `labels` if there are any, `index` [B], `epoch`.

    Padding is on the right; models drop it, so it costs nothing.
    """

    def __init__(self, ids: list[list[int]], labels: Tensor | None = None, *, pad: int = 0,
                 types: list[list[int]] | None = None) -> None:  # fmt: skip
        self.lengths = torch.tensor([len(one) for one in ids])
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.ids = _flat(ids)
        self.types = None if types is None else _flat(types)
        self.labels, self.pad = labels, pad

    @classmethod
    def of(cls, texts: Sequence[Text], preprocess: TextProcessor, labels: Tensor | None = None, *,
           max_length: int = 0, truncate: Truncate = "warn") -> "TokenDataset":  # fmt: skip
        """Texts through a model's tokenizer, at most `max_length` tokens each (0: as many as it takes).

        Raises: ValueError for a text without tokens, and with truncate="error" for one that is too long.
        """
        most = min(max_length or preprocess.max_length, preprocess.max_length)
        encoded = replace(preprocess, max_length=most, truncate=truncate)._fitting(list(texts))
        types = [one.type_ids for one in encoded] if preprocess.types else None
        return cls([one.ids for one in encoded], labels, pad=preprocess.id("pad") or 0, types=types)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        rows = torch.tensor(list(keys))
        lengths = self.lengths[rows, None]
        places = torch.arange(int(lengths.max()))
        real = places < lengths
        source = (self.starts[rows, None] + places).clamp(max=len(self.ids) - 1)
        batch = {"input_ids": self.ids[source].long().masked_fill(~real, self.pad), "attention_mask": real.long()}
        if self.types is not None:
            batch["token_type_ids"] = self.types[source].long() * real
        if self.labels is not None:
            batch["labels"] = self.labels[rows]
        return batch | {"index": rows, "epoch": torch.tensor(keys.epoch)}


class TextChunks(Dataset[Any]):
    """One long text in pieces of `length` tokens. Batches: `input_ids`, `labels` (the next tokens) [B, N], `index`,
    `epoch`. With `moving`, each epoch cuts at other places, a pure function of (seed, epoch).
    """

    def __init__(self, ids: Tensor, length: int, *, moving: bool = False, seed: int = 0) -> None:
        if len(ids) < length + 1:
            raise ValueError(f"a text of {len(ids)} tokens holds no piece of {length} and the token behind it; "
                             f"take a longer text or a smaller max_length")  # fmt: skip
        self.ids, self.length, self.moving, self.seed = ids, length, moving, seed
        self.count = (len(ids) - 1) // length - (1 if moving and len(ids) > 2 * length else 0)

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        rows = torch.tensor(list(keys))
        room = len(self.ids) - 1 - self.count * self.length
        start = seed_for(self.seed, keys.epoch, self.length) % (room + 1) if self.moving else 0
        taken = self.ids[start + rows[:, None] * self.length + torch.arange(self.length + 1)].long()
        batch = {"input_ids": taken[:, :-1], "labels": taken[:, 1:]}
        return batch | {"index": rows, "epoch": torch.tensor(keys.epoch)}


class GroupedByLengthBatches(KeyedBatches):
    """KeyedBatches of items of like length: pools of a random order are sorted, cut into batches, and those shuffled.

    As a pure function of (seed, epoch). lengths: of all samples, int64 [n].
    """

    def __init__(self, lengths: Tensor, batch_size: int, **options: Any) -> None:
        super().__init__(len(lengths), batch_size, **options)
        self.lengths = lengths

    def order(self, epoch: int) -> Tensor:
        random = super().order(epoch)
        whole = random[: self.steps * self.batch_size]
        pools = whole.split(POOL * self.batch_size)
        batches = torch.cat([pool[self.lengths[pool].argsort(stable=True)] for pool in pools]).view(self.steps, -1)
        draw = torch.Generator().manual_seed(seed_for(self.seed, epoch, 1))
        return torch.cat([batches[torch.randperm(self.steps, generator=draw)].flatten(), random[whole.numel() :]])


class GroupedByLengthDataModule(KeyedDataModule):
    """Items of unlike length in batches keyed by the step.

    Args:
        train, val, test: TokenDataset, Pieces, or other sets; those with `lengths` can be put into buckets.
        group_by_length: Put items of like length into a batch.
        options: Of KeyedDataModule.
    """

    def __init__(
        self, train: Any, val: Any, test: Any, batch_size: int, *, group_by_length: bool = True, **options: Any
    ) -> None:
        super().__init__(train, val, test, batch_size, **options)
        self.group_by_length = group_by_length and hasattr(train, "lengths")
        self.refuse_too_few()

    def batches(self, **place: Any) -> KeyedBatches:
        if not self.group_by_length:
            return super().batches(**place)
        return GroupedByLengthBatches(self.train.lengths, self.batch_size, seed=self.seed, **place)


def _flat(rows: list[list[int]]) -> Tensor:
    return torch.tensor([value for row in rows for value in row], dtype=torch.int32)
