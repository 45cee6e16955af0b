"""An n-gram model with a cache of the text at hand: what a language model of source code is compared with.

Counts of all orders are interpolated as in Witten-Bell smoothing (Bell, Cleary and Witten 1990; Chen and Goodman 1999,
section 2.5). The text so far counts `weight` times as much as the training texts: the cache of Kuhn and
De Mori 1990, here of n-grams, as for source code in Tu, Su and Devanbu 2014, https://doi.org/10.1145/2635868.2635875.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

_FACTOR = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class NGramCounts:
    """How often each token follows each context of up to `order` - 1 tokens in the training texts.

    Args:
        documents: Token ids of the training texts.
        vocab_size: Number of tokens.
        order: Tokens of the longest n-gram, at least 2.
    """

    def __init__(self, documents: Iterable[Sequence[int]], vocab_size: int, order: int = 8) -> None:
        if order < 2:
            raise ValueError(f"order={order}: expected at least 2")
        self.vocab_size, self.order = vocab_size, order
        rows = [np.asarray(row, dtype=np.int64) for row in documents]
        ids = np.concatenate(rows)
        # tokens of the same document before each token
        before = np.concatenate([np.arange(len(row)) for row in rows])
        self.counts = np.bincount(ids, minlength=vocab_size).astype(np.float64)
        self.keys: list[np.ndarray] = []
        self.tokens: list[np.ndarray] = []
        self.numbers: list[np.ndarray] = []
        for length in range(1, order):
            places = np.flatnonzero(before >= length)
            keys = np.zeros(len(places), dtype=np.uint64)
            for back in range(length, 0, -1):
                keys = keys * np.uint64(_FACTOR) + ids[places - back].astype(np.uint64) + np.uint64(1)
            following = ids[places]
            by_key = np.lexsort((following, keys))
            keys, following = keys[by_key], following[by_key]
            first = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]) | (following[1:] != following[:-1])])
            self.keys.append(keys[first])
            self.tokens.append(following[first])
            self.numbers.append(np.diff(np.r_[first, len(keys)]).astype(np.float64))

    def following(self, context: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(tokens that follow a context of at least one token, how often each does)."""
        key = 0
        for token in context:
            key = (key * _FACTOR + token + 1) & _MASK
        order = len(context) - 1
        place = slice(*np.searchsorted(self.keys[order], np.uint64(key) + np.array([0, 1], dtype=np.uint64)))
        return self.tokens[order][place], self.numbers[order][place]


class NGramCache:
    """The n-gram model of one text: counts of the training texts and of the text so far.

    Args:
        counts: Of the training texts.
        weight: How many occurrences in the training texts one in the text counts for.
    """

    def __init__(self, counts: NGramCounts, weight: float = 16.0) -> None:
        self.counts, self.weight = counts, weight
        self.seen: dict[tuple[int, ...], Counter[int]] = {}
        self.history: list[int] = []

    def read(self, ids: Iterable[int]) -> None:
        """Add the next tokens of the text."""
        for token in ids:
            for length in range(min(len(self.history), self.counts.order - 1) + 1):
                context = tuple(self.history[len(self.history) - length :])
                self.seen.setdefault(context, Counter())[token] += 1
            self.history.append(token)

    def read_other(self, ids: Iterable[int]) -> None:
        """Add tokens of another place of the text, such as what stands after a gap; the next token does not follow
        them."""
        history, self.history = self.history, []
        self.read(ids)
        self.history = history

    def probabilities(self) -> np.ndarray:
        """The probability of each token to be the next one, float64 [V]."""
        c, size = self.counts, self.counts.vocab_size
        p = np.full(size, 1.0 / size)
        for length in range(min(len(self.history), c.order - 1) + 1):
            context = self.history[len(self.history) - length :]
            own = self.seen.get(tuple(context), Counter())
            if length:
                tokens, numbers = c.following(context)
            else:
                tokens, numbers = np.arange(size), c.counts
            if not len(tokens) and not own:
                break  # longer contexts have not been seen, either
            kinds = np.count_nonzero(numbers) + len(own)
            p = p * kinds
            p[tokens] += numbers
            for token, number in own.items():
                p[token] += self.weight * number
            p /= kinds + numbers.sum() + self.weight * sum(own.values())
        return p

    def probability(self, token: int) -> float:
        """The probability of one token to be the next one."""
        c, p = self.counts, 1.0 / self.counts.vocab_size
        for length in range(min(len(self.history), c.order - 1) + 1):
            context = self.history[len(self.history) - length :]
            own = self.seen.get(tuple(context), Counter())
            tokens, numbers = c.following(context) if length else (np.arange(c.vocab_size), c.counts)
            if not len(tokens) and not own:
                break
            place = int(np.searchsorted(tokens, token))
            count = float(numbers[place]) if place < len(tokens) and tokens[place] == token else 0.0
            kinds = int(np.count_nonzero(numbers)) + len(own)
            total = float(numbers.sum()) + self.weight * sum(own.values())
            p = (count + self.weight * own.get(token, 0) + kinds * p) / (total + kinds)
        return p

    def write(self, end: int | Sequence[int], limit: int,
              stop: Callable[[list[int]], bool] = lambda written: False) -> list[int]:  # fmt: skip
        """The most probable tokens that follow, one at a time, up to an end token, or `limit` of them.

        They do not change the counts. stop: whether the tokens so far are enough, such as those of a whole line.
        """
        ends, history = {end} if isinstance(end, int) else set(end), list(self.history)
        written: list[int] = []
        while len(written) < limit and not stop(written):
            token = int(self.probabilities().argmax())
            if token in ends:
                break
            written.append(token)
            self.history.append(token)
        self.history = history
        return written


def bits(counts: NGramCounts, documents: Iterable[Sequence[int]], weight: float = 16.0) -> float:
    """Bits that the texts take, each with a cache of its own."""
    total = 0.0
    for ids in documents:
        model = NGramCache(counts, weight)
        for token in ids:
            total -= math.log2(model.probability(token))
            model.read([token])
    return total
