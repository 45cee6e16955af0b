"""ROUGE: how many words and word pairs of a reference a summary has, and the longest common sequence of words."""

import re
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from zoo.preprocessing.text_cleaning import UNSPACED

TYPES = ("rouge1", "rouge2", "rougeL")
_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")


class RougeWords:
    """Splits a text into words for the package `rouge-score`: letters and digits in lower case, other signs dropped.

    Words of more than three letters are stemmed (Porter), as the script ROUGE-1.5.5 does with `-m`. For texts in ASCII
    these are the words of the package itself, which drops all other letters; here letters of all scripts count, and in
    scripts without spaces between words each character is a word.
    """

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self.stem = PorterStemmer().stem

    def tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        words = _WORD.findall(text.lower())
        return [self.stem(word) if len(word) > 3 and word.isascii() else word for word in words]


class ROUGE(Metric):
    """ROUGE-1, ROUGE-2 and ROUGE-L of texts with one reference each: means of the F-measures, between 0 and 1.

    Without case, with stemmed words, as in the evaluations of BART and PEGASUS and in the scripts of transformers;
    see `RougeWords`. Sentences are not treated separately: it is `rougeL` of the package, not `rougeLsum`.

    Source: Lin 2004, https://aclanthology.org/W04-1013; the package `rouge-score` computes the scores.
    Raises: ImportError without `rouge-score`.
    """

    higher_is_better = True
    full_state_update = False
    directions: ClassVar[dict[str, str]] = dict.fromkeys(TYPES, "max")

    def __init__(self) -> None:
        super().__init__()
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ImportError:
            raise ImportError("ROUGE needs rouge-score: pip install 'attention-zoo[summarize]'") from None
        self.scorer = RougeScorer(list(TYPES), tokenizer=RougeWords())
        self.sums: Tensor
        self.count: Tensor
        self.add_state("sums", default=torch.zeros(len(TYPES)), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str], references: Sequence[str]) -> None:
        """Add texts with their references."""
        for prediction, reference in zip(predictions, references, strict=True):
            scores = self.scorer.score(reference, prediction)
            self.sums += self.sums.new_tensor([scores[name].fmeasure for name in TYPES])
            self.count += 1

    def compute(self) -> dict[str, float]:
        """`rouge1`, `rouge2` and `rougeL`; 0 without texts."""
        means = self.sums / self.count.clamp(min=1)
        return dict(zip(TYPES, means.tolist()))
