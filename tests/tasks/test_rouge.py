"""ROUGE: the scores of the package `rouge-score`, by hand, and for texts that are not in English."""

import builtins
import random
from itertools import pairwise
from typing import Any

import pytest

from zoo.tasks.rouge import ROUGE, RougeWords

pytest.importorskip("rouge_score")


def rouge(predictions: list[str], references: list[str]) -> dict[str, float]:
    metric = ROUGE()
    for pair in zip(predictions, references, strict=True):
        metric.update(*([text] for text in pair))
    return metric.compute()


def test_by_hand() -> None:
    # "the cat sat on the mat" (6 words, 5 pairs) and "the cat ate the mat" (5 words, 4 pairs): common are 4 words,
    # 2 pairs (the cat, the mat), and a sequence of 4 words
    found = rouge(["The cat ate the mat!"], ["the cat sat on the mat"])
    assert found == {"rouge1": pytest.approx(8 / 11), "rouge2": pytest.approx(4 / 9), "rougeL": pytest.approx(8 / 11)}
    assert rouge(["mat the cat"], ["the cat mat"])["rougeL"] == pytest.approx(2 / 3)
    both = rouge(["The cat ate the mat!", "dogs"], ["the cat sat on the mat", "cats"])
    assert both["rouge1"] == pytest.approx(4 / 11)
    assert rouge(["running dogs"], ["dog runs"])["rouge1"] == pytest.approx(1.0)  # of the same stems
    assert set(rouge([""], ["dogs"]).values()) == {0.0}


def test_the_scores_of_the_package() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    rng = random.Random(0)
    letters = "abcdeilnorst  ,.-'_0123AB\n"
    texts = ["".join(rng.choice(letters) for _ in range(rng.randrange(80))) for _ in range(120)]
    texts += ["The patients' medications were stopped; 2.5 mg (daily)", "generously relational conditioning_of vision"]
    theirs = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for prediction, reference in pairwise(texts):
        expected = {name: score.fmeasure for name, score in theirs.score(reference, prediction).items()}
        assert rouge([prediction], [reference]) == pytest.approx(expected)


def test_letters_of_all_scripts_count() -> None:
    assert RougeWords().tokenize("Übermäßig naïve") == ["übermäßig", "naïve"]
    assert rouge(["患者服用二甲双胍"], ["患者服用阿司匹林"])["rouge1"] == pytest.approx(0.5)
    assert rouge(["Пациент здоров"], ["Пациент болен"])["rouge1"] == pytest.approx(0.5)


def test_what_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="zip"):
        ROUGE().update(["a"], ["a", "b"])
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert set(ROUGE().compute().values()) == {0.0}
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("rouge_score"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'attention-zoo\[summarize\]'"):
        ROUGE()
