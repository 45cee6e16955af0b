"""The n-gram cache."""

import math
import random

import numpy as np
import pytest

from zoo.training.recipes.ngram_cache import NGramCache, NGramCounts, bits

NUMBERS = random.Random(0)
TEXTS = [[NUMBERS.randrange(4) for _ in range(30)] for _ in range(6)]


def by_hand(history: list[int], seen: list[list[int]], weight: float, order: int, size: int) -> np.ndarray:
    """Witten-Bell interpolation of counts made by searching all texts."""
    p = np.full(size, 1 / size)
    for length in range(order):
        if length > len(history):
            break
        context, counts, kinds = history[len(history) - length :], np.zeros(size), 0
        for texts, times in ((TEXTS, 1.0), (seen, weight)):
            own = np.zeros(size)
            for text in texts:
                for place in range(length, len(text)):
                    if text[place - length : place] == context:
                        own[text[place]] += 1
            counts, kinds = counts + times * own, kinds + np.count_nonzero(own)
        if not kinds:
            break
        p = (counts + kinds * p) / (counts.sum() + kinds)
    return p


@pytest.mark.parametrize("order", [2, 4])
def test_probabilities(order: int) -> None:
    counts = NGramCounts(TEXTS, 5, order)
    model, history, other = NGramCache(counts, weight=3.0), [], [1, 2, 3]
    model.read_other(other)
    for token in [0, 1, 1, 2, 4, 1, 1]:
        model.read([token])
        history.append(token)
        found = model.probabilities()
        expected = by_hand(history, [history, other], 3.0, order, 5)
        assert np.allclose(found, expected, rtol=1e-12) and found.sum() == pytest.approx(1)
        assert [model.probability(i) for i in range(5)] == pytest.approx(list(expected))


def test_a_cache_repeats_its_text() -> None:
    counts = NGramCounts(TEXTS, 9, 4)
    model = NGramCache(counts)
    model.read([5, 6, 7, 8, 0, 5, 6])
    assert model.write(end=0, limit=5) == [7, 8] == model.write([0, 1], 2) and model.history[-1] == 6
    assert NGramCache(counts).write(end=8, limit=3) != []


def test_bits() -> None:
    counts = NGramCounts(TEXTS, 5, 3)
    model, expected = NGramCache(counts), 0.0
    for token in TEXTS[0]:
        expected -= math.log2(model.probabilities()[token])
        model.read([token])
    assert bits(counts, TEXTS[:1]) == pytest.approx(expected)
    assert bits(counts, [TEXTS[0]] * 2) == pytest.approx(2 * expected)  # a cache for each text
    with pytest.raises(ValueError, match="order=1: expected at least 2"):
        NGramCounts(TEXTS, 5, 1)
