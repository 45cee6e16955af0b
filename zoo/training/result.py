"""Description of a run's dataset, and its result."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DatasetInfo:
    """Description of a dataset for the banner, `config.yaml` and `metrics.json`.

    Attributes:
        name: Name of the dataset.
        real: False for synthetic data.
        source: Where the data comes from.
        train: Number of training items.
        test: Number of test items.
    """

    name: str
    real: bool
    source: str
    train: int
    test: int

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
