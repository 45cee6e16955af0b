"""The scores of summaries as the data allows them, and the summaries that a run saves."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from zoo.data.splits import Splits
from zoo.data.text.parallel import ParallelTexts
from zoo.tasks.faithfulness import FactChecker
from zoo.tasks.summarization import Reference, SummaryScores
from zoo.training.recipes.translation import TranslationsFile
from zoo.utils.console import announce


def fact_checker(pairs: Splits[ParallelTexts]) -> FactChecker | None:
    """Finds the facts of the data in a summary; None for data without facts."""
    facts = [row for part in pairs.parts for row in part.facts or []]
    if any(facts):
        return FactChecker(facts)
    if any(part.facts is not None for part in pairs.parts):
        announce("no row has facts: faithfulness is not measured")
    return None


def summary_scores(checker: FactChecker | None) -> Callable[[], SummaryScores] | None:
    """Makes the metric of summaries: ROUGE if its package is installed, faithfulness if there are facts, else None."""
    try:
        SummaryScores(checker)
    except ImportError as error:
        announce(f"ROUGE is not computed: {error}")
        return partial(SummaryScores, checker, rouge=False) if checker else None
    return partial(SummaryScores, checker)


def references(pairs: Splits[ParallelTexts]) -> Mapping[str, list[Reference]]:
    """The right summaries and facts of the validation and of the test split, by stage."""
    parts = {"val": pairs.validation or pairs.test, "test": pairs.test}
    return {stage: [Reference(*row) for row in zip(part.targets, part.facts or [[] for _ in part.targets])]
            for stage, part in parts.items()}  # fmt: skip


class SummariesFile(TranslationsFile):
    """Writes the summaries of the test split to `summaries.csv` in the run folder, and prints some of them; for data
    with facts also which ones are lost, and what is not supported.

    Args:
        folder: The run folder.
        checker: Finds the facts, if there are any.
    """

    file_name = "summaries.csv"

    def __init__(self, folder: Path, checker: FactChecker | None) -> None:
        super().__init__(folder)
        self.checker = checker
        self.columns = ("source", "reference", "summary", *(["lost", "unsupported"] if checker else []))

    def row(self, part: ParallelTexts, index: int, text: str) -> list[str]:
        """The columns of one item."""
        columns = super().row(part, index, text)
        if self.checker is None:
            return columns
        facts = part.facts[index] if part.facts else []
        found = self.checker.check(text, facts)
        lost = [" ".join(fact) for fact, kept in zip(facts, found.kept) if not kept]
        return [*columns, "; ".join(lost), "; ".join(found.unsupported)]

    def notes(self, task: Any) -> dict[str, str]:
        """None: the scores need no signature."""
        return {}
