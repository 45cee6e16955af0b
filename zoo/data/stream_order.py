"""Order of streamed data: each position of an epoch has its row, computed from (seed, epoch, position).

No list of all rows is made. The rows are cut into chunks of neighbors, which a keyed permutation brings into a new
order; the chunks of a window are then shuffled together. So a window reads from a few places, each of which is one
piece of a file, and any step can be the first: nothing that was passed is read.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zoo.data.keyed_batches import KeyedBatches, Keys
from zoo.utils.keyed_random import hash_keys, mix, seed_for
from zoo.utils.recent import Recent

WINDOW = 8192  # rows that are shuffled together, unless `shuffle_window=` says otherwise
PLACES = 32  # chunks of a window at least, where the files allow it
_ROUNDS = 6
_MOST_PARTS = 1 << 20  # greatest denominator of a weight
_KEPT = 4  # windows of each source that are kept, and epochs whose short window is known


class Permutation:
    """A permutation of 0 .. count - 1 as a function, without a table.

    A Feistel network is a bijection of the numbers with an even number of bits; numbers that leave the range are
    permuted again until they are back (Black & Rogaway 2002, "Ciphers with arbitrary finite domains", cycle walking).

    Args:
        count: Size of the range.
        keys: What the permutation depends on, such as (seed, epoch).
    """

    def __init__(self, count: int, *keys: int) -> None:
        self.count, self.half = count, max(1, ((count - 1).bit_length() + 1) // 2)
        self.keys = [int(hash_keys(*keys, i)) for i in range(_ROUNDS)]

    def __call__(self, positions: Tensor) -> Tensor:
        """The numbers at these positions, int64 [n]."""
        return self._walk(positions, inverse=False)

    def inverse(self, numbers: Tensor) -> Tensor:
        """The positions of these numbers, int64 [n]."""
        return self._walk(numbers, inverse=True)

    def _walk(self, x: Tensor, inverse: bool) -> Tensor:
        x = self._network(x, inverse)
        while len(out := (x >= self.count).nonzero()[:, 0]):
            x[out] = self._network(x[out], inverse)
        return x

    def _network(self, x: Tensor, inverse: bool) -> Tensor:
        mask = (1 << self.half) - 1
        left, right = x >> self.half, x & mask
        if inverse:
            for key in reversed(self.keys):
                left, right = right ^ (mix(left ^ key) & mask), left
        else:
            for key in self.keys:
                left, right = right, left ^ (mix(right ^ key) & mask)
        return left << self.half | right


class WindowShuffle:
    """The order of the rows of one source in each epoch.

    Args:
        count: Number of rows.
        window: Rows that are shuffled together. The whole source if it has fewer.
        chunk: Neighboring rows that stay in one window; 0 is a 32nd of the window, at most 256 rows.
        seed: Seed of the order.

    Raises: ValueError for no rows, or no window.
    """

    def __init__(self, count: int, *, window: int = WINDOW, chunk: int = 0, seed: int = 0) -> None:
        if count < 1 or window < 1:
            raise ValueError(f"count={count}, window={window}: expected at least one row and a window of one or more")
        self.count, self.seed = count, seed
        self.chunk = chunk or max(1, min(256, window // PLACES))
        self.chunks = -(-count // self.chunk)
        self.window = max(1, window // self.chunk) * self.chunk
        self.missing = self.chunks * self.chunk - count  # rows that the last chunk lacks
        self._window = Recent(self._make_window, _KEPT)
        self._short_window = Recent(self._find_short_window, _KEPT)

    def rows(self, epoch: int, start: int, stop: int) -> Tensor:
        """The rows at positions start .. stop - 1 of an epoch, int64 [stop - start]."""
        parts, position = [], start
        while position < stop:
            number, first = self._window_at(epoch, position)
            rows = self._window(epoch, number)
            parts.append(rows[position - first : stop - first])
            position += len(parts[-1])
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def _window_at(self, epoch: int, position: int) -> tuple[int, int]:
        """(number of the window with this position, its first position)."""
        short = self._short_window(epoch)
        number = position // self.window
        if number > short or (number == short and position >= (short + 1) * self.window - self.missing):
            number = (position + self.missing) // self.window
        return number, number * self.window - (self.missing if number > short else 0)

    def _find_short_window(self, epoch: int) -> int:
        """The window with the last chunk, which may be shorter than the others."""
        place = Permutation(self.chunks, self.seed, epoch, 7).inverse(torch.tensor([self.chunks - 1]))
        return int(place) * self.chunk // self.window

    def _make_window(self, epoch: int, number: int) -> Tensor:
        slots = self.window // self.chunk
        places = torch.arange(number * slots, min((number + 1) * slots, self.chunks))
        chunks = Permutation(self.chunks, self.seed, epoch, 7)(places)
        rows = (chunks[:, None] * self.chunk + torch.arange(self.chunk)).flatten()
        rows = rows[rows < self.count]
        generator = torch.Generator().manual_seed(seed_for(self.seed, epoch, number, 8))
        return rows[torch.randperm(len(rows), generator=generator)]


class Mixture:
    """Which source each item of an endless sequence comes from, by weight.

    Among the first p items, the first source has floor(w p + 1/2) of them, w its share; the others divide the rest in
    the same way. So every prefix has the shares of the weights, to less than two items, and the source of an item is a
    function of its position.

    Args:
        weights: Weight of each source, above 0.

    Raises: ValueError for other weights.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        if not weights or min(weights) <= 0:
            raise ValueError(f"weights={list(weights)}: expected a number above 0 for each source")
        left = [Fraction(str(weight)) for weight in weights]
        least = Fraction(1, _MOST_PARTS)  # a smaller one would be rounded to none
        shares = [(left[i] / sum(left[i:])).limit_denominator(_MOST_PARTS) for i in range(len(left) - 1)]
        self.shares = [*(min(max(share, least), 1 - least) for share in shares), Fraction(1)]

    def counts(self, position: int) -> list[int]:
        """Number of items of each source among the first `position` ones."""
        found, left = [], position
        for share in self.shares:
            count = (2 * left * share.numerator + share.denominator) // (2 * share.denominator)
            found.append(count)
            left -= count
        return found

    def sources(self, start: int, stop: int) -> list[tuple[int, int]]:
        """(source, number of the item within it) of the items start .. stop - 1."""
        found, before = [], self.counts(start)
        for position in range(start, stop):
            after = self.counts(position + 1)
            source = next(i for i, (old, new) in enumerate(zip(before, after)) if new > old)
            found.append((source, before[source]))
            before = after
        return found


class StreamOrder:
    """The order of a dataset of one or several sources, whose rows are numbered one source after another.

    A single source is passed once in each epoch. Several are mixed by weight, and each starts again when it ends: an
    epoch then has as many items as all of them together.

    Args:
        sources: The order of each source.
        weights: Weight of each source; default: its number of rows.

    Raises: ValueError for another number of weights.
    """

    def __init__(self, sources: Sequence[WindowShuffle], weights: Sequence[float] = ()) -> None:
        self.sources = list(sources)
        counts = [source.count for source in sources]
        if weights and len(weights) != len(counts):
            raise ValueError(f"weights={list(weights)}: expected {len(counts)} numbers, one for each source")
        self.mixture = Mixture(list(weights) or counts) if len(counts) > 1 else None
        self.starts = [sum(counts[:i]) for i in range(len(counts))]

    @classmethod
    def of(cls, counts: Sequence[int], weights: Sequence[float], *, window: int, seed: int,
           chunks: Sequence[int] = ()) -> "StreamOrder":  # fmt: skip
        """The order of sources of which some may have no rows: these are left out.

        Args:
            counts: Number of rows of each source.
            weights: Weight of each source; empty: its number of rows.
            window: Rows that are shuffled together; a chunk at least.
            seed: Seed of the order.
            chunks: Neighboring rows of each source that are read together; 0, the default, if it does not matter.
        """
        chunks = chunks or [0] * len(counts)
        kept = [i for i, count in enumerate(counts) if count]
        orders = [WindowShuffle(counts[i], window=max(window, chunks[i]), chunk=min(chunks[i], counts[i]),
                                seed=seed + number) for number, i in enumerate(kept)]  # fmt: skip
        return cls(orders, [weights[i] for i in kept] if weights else [])

    def keys(self, epoch: int, start: int, stop: int, length: int) -> Keys:
        """The keys of items start .. stop - 1 of an epoch, of which `length` items are used."""
        if self.mixture is None:
            return Keys(self.sources[0].rows(epoch, start, stop).tolist(), epoch)
        items = self.mixture.sources(epoch * length + start, epoch * length + stop)
        rows, passes = [0] * len(items), [0] * len(items)
        for source, order in enumerate(self.sources):
            places = [i for i, (own, _) in enumerate(items) if own == source]  # their numbers follow one another
            numbers = [items[i][1] for i in places]
            for place, (row, again) in zip(places, self._passed(order, numbers)):
                rows[place], passes[place] = self.starts[source] + row, again
        return Keys(rows, epoch, passes)

    def _passed(self, order: WindowShuffle, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """(row, pass) of items with consecutive numbers of one source."""
        found: list[tuple[int, int]] = []
        while len(found) < len(numbers):
            again, position = divmod(numbers[len(found)], order.count)
            stop = min(order.count, position + len(numbers) - len(found))
            found += [(row, again) for row in order.rows(again, position, stop).tolist()]
        return found


class StreamBatches(KeyedBatches):
    """KeyedBatches of streamed data, in the order of a StreamOrder.

    Args:
        order: The order.
        n: Number of rows of all sources.
        batch_size: Items per optimizer step.
        options: Options of KeyedBatches.
    """

    def __init__(self, order: StreamOrder, n: int, batch_size: int, **options: Any) -> None:
        super().__init__(n, batch_size, **options)
        self.stream = order

    def order(self, epoch: int) -> Tensor:
        """The order of an epoch, int64: for inspection, iteration does not make it."""
        return torch.tensor(self._keys(epoch)(0, self.steps * self.batch_size))

    def _keys(self, epoch: int) -> Callable[[int, int], Keys]:
        return partial(self.stream.keys, epoch, length=self.steps * self.batch_size)
