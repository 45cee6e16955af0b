"""ROUGE: how many words and word pairs of a reference a summary has, and the longest common sequence of words."""

import re
from collections.abc import Sequence
from typing import Any

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


def rouge_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L: the mean F-measure over the texts, between 0 and 1.

    Without case, with stemmed words, as in the evaluations of BART and PEGASUS and in the scripts of transformers;
    see `RougeWords`. Sentences are not treated separately: it is `rougeL` of the package, not `rougeLsum`.

    Source: Lin 2004, https://aclanthology.org/W04-1013; the package `rouge-score` computes the scores.
    Raises: ImportError without `rouge-score`; ValueError for different numbers of texts, or none.
    """
    if not predictions or len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions and {len(references)} references: expected a reference for "
                         f"each prediction, and at least one")  # fmt: skip
    scorer = rouge_scorer()
    rows = [scorer.score(reference, text) for text, reference in zip(predictions, references)]
    return {name: sum(row[name].fmeasure for row in rows) / len(rows) for name in TYPES}


def rouge_scorer() -> Any:
    """The scorer of the package `rouge-score`. Raises: ImportError without it."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise ImportError("ROUGE needs rouge-score: pip install 'attention-zoo[summarize]'") from None
    return RougeScorer(list(TYPES), tokenizer=RougeWords())
