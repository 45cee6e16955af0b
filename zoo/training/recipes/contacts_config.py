"""Options of the recipe for contact maps of proteins. Torch-free, because `--help` reads this file."""

from dataclasses import dataclass, field

from zoo.data.alignment_config import ContactMapSettings
from zoo.tasks.config import _within
from zoo.training.config import RunSettings


@dataclass(frozen=True, kw_only=True)
class ContactEvaluationSettings:
    """The evaluation of contacts, and early stopping.

    Attributes:
        baselines: Also predict the contacts of the test families by mutual information and by mean-field direct
            coupling analysis, which are not trained, to compare with.
        early_stopping_patience: Stop after this many validations without improvement; 0 disables early stopping.
    """

    baselines: bool = True
    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        _within("early_stopping_patience", self.early_stopping_patience, 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class ContactSettings(RunSettings):
    """Settings of the prediction of contact maps."""

    data: ContactMapSettings = field(default_factory=ContactMapSettings)
    task: ContactEvaluationSettings = field(default_factory=ContactEvaluationSettings)
