"""Options of the recipe for contact maps of proteins. Torch-free, because `--help` reads this file."""

from dataclasses import dataclass, field

from zoo.data.alignment_config import ContactMapSettings
from zoo.tasks.config import _within
from zoo.training.config import RunSettings


@dataclass(frozen=True, kw_only=True)
class ContactTaskSettings:
    """The objectives, the evaluation of contacts, and early stopping.

    Attributes:
        masked_msa_weight: Weight of the masked MSA prediction in the loss: some residues of the alignment are masked,
            and the model also learns to predict them. 0 leaves it out; AlphaFold 2 has 2.
        mask_probability: Fraction of the residues that are masked for it.
        baselines: Also predict the contacts of the test families by mutual information and by mean-field direct
            coupling analysis, which are not trained, to compare with.
        early_stopping_patience: Stop after this many validations without improvement; 0 disables early stopping.
    """

    masked_msa_weight: float = 0.0
    mask_probability: float = 0.15
    baselines: bool = True
    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        _within("masked_msa_weight", self.masked_msa_weight, 0.0, float("inf"))
        if not 0.0 < self.mask_probability < 1.0:
            raise ValueError(f"mask_probability={self.mask_probability}: expected more than 0 and less than 1")
        _within("early_stopping_patience", self.early_stopping_patience, 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class ContactSettings(RunSettings):
    """Settings of the prediction of contact maps."""

    data: ContactMapSettings = field(default_factory=ContactMapSettings)
    task: ContactTaskSettings = field(default_factory=ContactTaskSettings)
