"""Description of a run's dataset, and its result."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DatasetInfo:
    """Description of a dataset for the banner, `config.yaml` and `metrics.json`.

    Attributes:
        name: Name of the dataset.
        real: False for synthetic data.
        source: Where the data comes from.
        train: Number of training items, those that are held out for validation included.
        test: Number of test items.
        test_name: What the test items are from, if not the test split of the dataset.
        notes: What the user should know about the labels, one sentence each.
        trained_on, validation: Number of items trained on and validated on; `fit` sets them.
    """

    name: str
    real: bool
    source: str
    train: int
    test: int
    test_name: str = ""
    notes: tuple[str, ...] = ()
    trained_on: int = 0
    validation: int = 0

    @classmethod
    def of(cls, data: Any) -> "DatasetInfo":
        """The description of the splits that a loader gives, before a validation set is split off, or of a data module,
        whose items may be parts of one text.
        """
        splits = getattr(data, "splits", data)
        return cls(splits.name, splits.real, splits.source, len(data.train), len(data.test), splits.test_name,
                   tuple(getattr(splits, "notes", ())))  # fmt: skip

    @property
    def counts(self) -> str:
        """The numbers of items in words."""
        text = f"{self.train:,} training and {self.test:,} test items"
        if self.trained_on in (0, self.train):
            return text
        return f"{text} ({self.trained_on:,} to train on, {self.validation:,} for validation)"

    @property
    def kind(self) -> str:
        """`real data` or `synthetic data`."""
        return "real data" if self.real else "synthetic data"

    def warning(self) -> str | None:
        """Warning for synthetic data, None for real data."""
        if self.real:
            return None
        return f"Synthetic data ({self.name}: {self.source}): the metrics say nothing about real data."


@dataclass
class Result:
    """Result of a run, as written to `metrics.json`.

    Attributes:
        metrics: Test metrics by name, e.g. `test_accuracy`.
        finished: Whether training is complete; False if the time budget ended it.
        steps: Number of optimizer steps done.
        seconds: Seconds of training, over all restarts.
        folder: The run folder.
    """

    metrics: dict[str, float]
    finished: bool
    steps: int
    seconds: float
    folder: Path
