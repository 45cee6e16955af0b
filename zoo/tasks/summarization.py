"""Scores of summaries: ROUGE, and the faithfulness to the facts of the source if the data has them."""

from collections.abc import Sequence
from typing import NamedTuple

from torchmetrics import Metric
from torchmetrics.wrappers.abstract import WrapperMetric

from zoo.tasks.faithfulness import Fact, FactChecker, Faithfulness
from zoo.tasks.rouge import ROUGE


class Reference(NamedTuple):
    """The right summary of a text, and the facts that a summary must keep."""

    text: str
    facts: Sequence[Fact] = ()


class SummaryScores(WrapperMetric):
    """ROUGE and faithfulness of summaries, as one metric for `Seq2SeqTask(text_metric=)`.

    Args:
        checker: Finds facts in summaries; None does not measure faithfulness.
        rouge: Whether to compute ROUGE, which needs `rouge-score`.

    Raises: ValueError without either of them; ImportError without `rouge-score`.
    """

    full_state_update = False

    def __init__(self, checker: FactChecker | None = None, *, rouge: bool = True) -> None:
        super().__init__()
        if checker is None and not rouge:
            raise ValueError("rouge=False without facts: there is no score to compute")
        self.rouge = ROUGE() if rouge else None
        self.faithfulness = None if checker is None else Faithfulness(checker)

    @property
    def parts(self) -> list[Metric]:
        """The metrics that are computed."""
        return [metric for metric in (self.rouge, self.faithfulness) if metric is not None]

    @property
    def directions(self) -> dict[str, str]:
        """Whether the best value of each score is the highest ("max") or the lowest ("min")."""
        return {name: direction for metric in self.parts for name, direction in metric.directions.items()}  # type: ignore[operator,union-attr]

    def update(self, predictions: Sequence[str], references: Sequence[Reference]) -> None:
        """Add summaries with their references."""
        if self.rouge is not None:
            self.rouge.update(predictions, [reference.text for reference in references])
        if self.faithfulness is not None:
            self.faithfulness.update(predictions, [reference.facts for reference in references])

    def compute(self) -> dict[str, float]:
        """The scores of `ROUGE` and of `Faithfulness`."""
        return {name: score for metric in self.parts for name, score in metric.compute().items()}

    def reset(self) -> None:
        """Start again without summaries."""
        super().reset()
        for metric in self.parts:
            metric.reset()
