"""What the measurement of head roles reads: batches of inputs and, for each role, the keys that its queries look at."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

CELLS = 1 << 20  # pairs of a query and a key in one batch
ROWS = 32


@dataclass(frozen=True, eq=False)
class Target:
    """The keys of a role. The score of a head is the mean over the queries of the sum of attention times weight.

    Attributes:
        weights: 1 for keys that the role attends to, -1 for those that it is compared with, 0 for others; broadcasts to
            [B, N, M].
        queries: True for the queries that count; broadcasts to [B, N].
    """

    weights: Tensor
    queries: Tensor

    def dense(self, rows: int, queries: int, keys: int) -> Tensor:
        """The weights of the queries that count [B, N, M], zeros for the others."""
        return (self.weights.float() * self.queries[..., None]).expand(rows, queries, keys)

    def count(self, rows: int, queries: int) -> int:
        """The number of queries that count."""
        return int(self.queries.expand(rows, queries).sum())


@dataclass(frozen=True, eq=False)
class PositionBins:
    """Pairs of a query and a key by position, for inputs of one length.

    Attributes:
        offsets: The number of the offset of each pair [N, M], the same for pairs of equal offset.
        queries: True for the queries that count [N].
    """

    offsets: Tensor
    queries: Tensor


@dataclass(eq=False)
class RoleBatch:
    """A batch of inputs and what is measured on it.

    Attributes:
        inputs: Of the model.
        targets: {layers ("encoder", "decoder", "cross" or "text"): {role: what its queries attend to}}.
        positions: {layers: pairs by position}; all rows then have the same length and other content.
    """

    inputs: dict[str, Tensor]
    targets: dict[str, dict[str, Target]] = field(default_factory=dict)
    positions: dict[str, PositionBins] = field(default_factory=dict)


def split_rows(lengths: list[int]) -> Iterator[list[int]]:
    """Indices of rows in batches: rows of similar lengths together, of limited size."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == ROWS or (len(batch) + 1) * lengths[index] ** 2 > CELLS):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def line_offsets(tokens: int) -> Tensor:
    """Numbers of the offsets from query to key in a sequence [N, N]."""
    line = torch.arange(tokens)
    return line[None] - line[:, None] + tokens - 1


def grid_offsets(grid: tuple[int, int], prefix: int) -> Tensor:
    """Numbers of the offsets from query to key on a grid of patches after `prefix` other tokens [N, N].

    Each pair with a token of the prefix has the same number as those of that token with other patches, since these
    have no offset.
    """
    rows, columns = grid
    patches = torch.arange(rows * columns)
    down = patches[None] // columns - patches[:, None] // columns + rows - 1
    right = patches[None] % columns - patches[:, None] % columns + columns - 1
    count = (2 * rows - 1) * (2 * columns - 1)
    offsets = torch.full((prefix + len(patches),) * 2, 0)
    offsets[prefix:, prefix:] = down * (2 * columns - 1) + right
    for token in range(prefix):
        offsets[token, prefix:] = count + 2 * token
        offsets[prefix:, token] = count + 2 * token + 1
    before = torch.arange(prefix * prefix).view(prefix, prefix)
    offsets[:prefix, :prefix] = count + 2 * prefix + before
    return offsets
