"""Word and character error rates of generated transcripts."""

from collections.abc import Sequence
from typing import ClassVar

from torchmetrics.text import CharErrorRate, WordErrorRate
from torchmetrics.wrappers.abstract import WrapperMetric


class ErrorRates(WrapperMetric):
    """Word and character error rate, as one metric for `Seq2SeqTask(text_metric=)`."""

    full_state_update = False
    directions: ClassVar[dict[str, str]] = {"wer": "min", "cer": "min"}

    def __init__(self) -> None:
        super().__init__()
        self.wer, self.cer = WordErrorRate(), CharErrorRate()

    def update(self, predictions: Sequence[str], references: Sequence[str]) -> None:
        """Add transcripts with their references."""
        for metric in (self.wer, self.cer):
            metric.update(list(predictions), list(references))

    def compute(self) -> dict[str, float]:
        """`wer` and `cer`: edits divided by the words, and by the characters, of the references; 0 without any."""
        if not self.wer.total:
            return {"wer": 0.0, "cer": 0.0}
        return {"wer": float(self.wer.compute()), "cer": float(self.cer.compute())}

    def reset(self) -> None:
        """Start again without transcripts."""
        super().reset()
        self.wer.reset()
        self.cer.reset()
