"""What a run says about its data, and what it came to."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class DatasetInfo:
    """What a run says about its data, in the banner, in `config.yaml` and in `metrics.json`.

    Attributes:
        name: Of the data set.
        real: False for data that the program drew itself.
        source: Where it came from.
        train: Items to train on.
        test: Items to test on.
    """

    name: str
    real: bool
    source: str
    train: int
    test: int

    def warning(self) -> str | None:
        """A line that cannot be missed, for data that is not real."""
        if self.real:
            return None
        return f"NOT REAL DATA: the {self.name} set is {self.source}; its figures say nothing of any other set."


@dataclass
class Result:
    """What a run came to; stands in `metrics.json`.

    Attributes:
        figures: `test_accuracy` and the like.
        finished: Whether all planned steps are done; a run stopped by its time budget is not.
        steps: Optimizer steps done.
        seconds: Of training, over all starts.
        folder: The run folder.
    """

    figures: dict[str, float]
    finished: bool
    steps: int
    seconds: float
    folder: Path
