"""Options of the recipe for source code. Torch-free, because `--help` reads this file."""

from dataclasses import dataclass, field

from zoo.data.text_config import CodeSettings
from zoo.tasks.config import _within
from zoo.training.config import RunSettings


@dataclass(frozen=True, kw_only=True)
class CodeLineSettings:
    """Held-out lines that the model writes in the test.

    Attributes:
        lines: Number of test lines that are completed and filled in; 0 writes none.
        ngram_baseline: Also let an n-gram cache write these lines, to compare with.
        early_stopping_patience: Stop after this many validations without improvement; 0 disables early stopping.
    """

    lines: int = 400
    ngram_baseline: bool = True
    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        for name in ("lines", "early_stopping_patience"):
            _within(name, getattr(self, name), 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class CodeTextSettings(RunSettings):
    """Settings of source code: causal language modeling and fill-in-the-middle."""

    data: CodeSettings = field(default_factory=CodeSettings)
    task: CodeLineSettings = field(default_factory=CodeLineSettings)
