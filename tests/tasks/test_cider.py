"""CIDEr-D against pycocoevalcap, and by hand."""

import math
import random

import pytest

from zoo.tasks.cider import CIDEr, ngrams


def test_equal_to_pycocoevalcap_on_words_that_need_no_cleaning() -> None:
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    pick, words = random.Random(0), ["a", "red", "blue", "circle", "square", "above", "left", "of", "the", "two", "big"]
    refs = [[" ".join(pick.choice(words) for _ in range(pick.randint(1, 9))) for _ in range(pick.randint(1, 4))]
            for _ in range(50)]  # fmt: skip
    texts = [" ".join([*pick.choice(row).split()[: pick.randint(1, 8)], pick.choice(words)]) for row in refs]
    metric = CIDEr(refs)
    _, theirs = cider.Cider().compute_score(dict(enumerate(refs)), {i: [text] for i, text in enumerate(texts)})
    assert [metric.score(*pair) for pair in zip(texts, refs)] == pytest.approx(list(theirs), abs=1e-9)


def test_by_hand() -> None:
    refs = ["a red dog", "a blue cat"]
    metric = CIDEr(refs)
    metric.update(["a red dog"], [refs[0]])
    assert metric.compute()["cider"] == pytest.approx(7.5)  # no n-gram of four words
    metric.reset()
    # "a" is in both documents and counts nothing; of "red" and "dog" one is right; a pair of words is missing.
    assert metric.score("a red", ["a red dog"]) == pytest.approx(
        10 / 4 * (1 / math.sqrt(2) + 1 / math.sqrt(2)) * math.exp(-1 / 72)
    )
    assert metric.score("Red, RED dog!", ["red dog"]) < metric.score("Red dog.", ["red dog"])


def test_words_and_what_it_refuses() -> None:
    assert ngrams("A dog's bone.").keys() >= {("a",), ("dog's",), ("dog's", "bone")}
    assert ("漢", "字") in ngrams("漢字")
    with pytest.raises(ValueError, match="documents="):
        CIDEr([])
