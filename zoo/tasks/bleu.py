"""BLEU of translations by sacrebleu, summed up over batches and devices."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric


def sacrebleu() -> Any:
    """The module. Raises ImportError with the way to install it."""
    try:
        from sacrebleu.metrics import bleu
    except ImportError:
        raise ImportError("BLEU needs sacrebleu: pip install 'attention-zoo[translate]'") from None
    return bleu


class BLEU(Metric):
    """Corpus BLEU of sacrebleu with its default options, in percent, of translations with one reference each, or of
    captions with several.

    The state has the counts that the score is computed from, so that batches and devices may be of any size. Scores can
    be compared if their `signature`, the options and the version, is the same.

    Args:
        several: Whether texts have several references, or different numbers of them.

    Source: Post 2018, https://aclanthology.org/W18-6319.
    Raises: ImportError without sacrebleu.
    """

    higher_is_better = True
    full_state_update = False
    directions: ClassVar[dict[str, str]] = {"bleu": "max"}

    def __init__(self, several: bool = False) -> None:
        super().__init__()
        module = sacrebleu()
        self.scorer = module.BLEU()
        self.sentence_scorer = module.BLEU(effective_order=True)  # which takes texts of less than four words, too
        # After this, the signature has the number of references, or that they vary.
        self.scorer.corpus_score(["a", "a"], [["a", "a"], ["a", None]] if several else [["a", "a"]])
        self.signature = str(self.scorer.get_signature())
        self.counts: Tensor  # n-grams that match [4], n-grams [4], length of the translations, of the references
        self.add_state("counts", default=torch.zeros(10, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> None:
        """Add translations with their references, one or several texts each."""
        for prediction, reference in zip(predictions, references, strict=True):
            texts = [reference] if isinstance(reference, str) else list(reference)
            score = self.sentence_scorer.sentence_score(prediction, texts)
            counts = [*score.counts, *score.totals, score.sys_len, score.ref_len]
            self.counts += torch.tensor(counts, dtype=torch.long, device=self.device)

    def compute(self) -> dict[str, float]:
        """`bleu`, from 0 to 100; 0 without translations."""
        counts = [int(count) for count in self.counts.tolist()]
        if not counts[-2]:
            return {"bleu": 0.0}
        score = self.scorer.compute_bleu(counts[:4], counts[4:8], *counts[8:], smooth_method=self.scorer.smooth_method)
        return {"bleu": float(score.score)}
