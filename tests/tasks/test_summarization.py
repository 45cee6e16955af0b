"""Scores of summaries in one metric: those of its parts."""

import pytest

from zoo.tasks.faithfulness import FactChecker
from zoo.tasks.rouge import ROUGE
from zoo.tasks.summarization import Reference, SummaryScores

FACTS = [("aspirin", "100 mg")]
REFERENCES = [Reference("takes aspirin 100 mg", FACTS), Reference("is healthy")]
TEXTS = ["aspirin 100 mg", "is healthy, aspirin 5 mg"]


def test_the_scores_of_both() -> None:
    pytest.importorskip("rouge_score")
    metric, alone = SummaryScores(FactChecker([FACTS])), ROUGE()
    for text, reference in zip(TEXTS, REFERENCES):
        metric.update([text], [reference])
        alone.update([text], [reference.text])
    expected = {"faithfulness": 1.0, "unsupported": 0.5}
    assert metric.compute() == alone.compute() | expected
    assert metric.directions == {"rouge1": "max", "rouge2": "max", "rougeL": "max", "faithfulness": "max",
                                 "unsupported": "min"}  # fmt: skip
    metric.reset()
    metric.update(TEXTS[1:], REFERENCES[:1])
    assert metric.compute()["faithfulness"] == 0.0
    assert len([name for name, _ in metric.to("cpu").named_modules() if name]) == 2


def test_one_of_them() -> None:
    metric = SummaryScores(FactChecker([FACTS]), rouge=False)
    metric.update(TEXTS, REFERENCES)
    assert metric.compute() == {"faithfulness": 1.0, "unsupported": 0.5} and len(metric.directions) == 2
    with pytest.raises(ValueError, match="no score to compute"):
        SummaryScores(rouge=False)
    pytest.importorskip("rouge_score")
    metric = SummaryScores()
    metric.update(TEXTS, REFERENCES)
    assert set(metric.compute()) == {"rouge1", "rouge2", "rougeL"}
