"""A part of the rows of records: that of a split, whose order in training is keyed by step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from zoo.data.stream_order import StreamOrder
from zoo.data.streams.records import Several


@dataclass(frozen=True, eq=False)
class StreamRows:
    """Rows of records, in the order of the files.

    Attributes:
        records: The records of all sources.
        rows: The row of each item, int64 [n], ascending.
        window: Rows that are shuffled together.
        weights: Weight of each source in training; empty: its size.
    """

    records: Several
    rows: Tensor
    window: int
    weights: tuple[float, ...] = ()

    @classmethod
    def of(cls, records: Several, window: int, weights: Sequence[float] = ()) -> "StreamRows":
        """All rows."""
        return cls(records, torch.arange(len(records)), window, tuple(weights))

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor) -> "StreamRows":
        """The rows at these positions."""
        return replace(self, rows=self.rows[rows])

    @property
    def hashes(self) -> Tensor:
        """64 random bits of each row, int64 [n]; see Records."""
        return self.records.hashes[self.rows]

    def order(self, seed: int) -> StreamOrder:
        """The order of training. A source of which no row is left, as in a small subset, is left out."""
        bounds = torch.searchsorted(self.rows, torch.tensor(self.records.starts)).tolist()
        counts = [stop - start for start, stop in pairwise(bounds)]
        chunks = [source.chunk for source in self.records.sources]
        return StreamOrder.of(counts, self.weights, window=self.window, seed=seed, chunks=chunks)

    def read(self, items: Sequence[int], role: str) -> list[Any]:
        """The values of a role of the items at these positions."""
        return self.records.read(self.rows[torch.as_tensor(items, dtype=torch.int64)].tolist(), role)

    def place(self, item: int, role: str = "") -> str:
        """Where an item is, for messages."""
        return self.records.place(int(self.rows[item]), role)
