"""Options of the recipe of molecules. Torch-free, because `--help` reads this file."""

from dataclasses import dataclass, field

from zoo.data.molecule_config import MoleculeDataSettings
from zoo.tasks.config import WeightedClassificationSettings
from zoo.training.config import RunSettings


@dataclass(frozen=True, kw_only=True)
class MoleculeSettings(RunSettings):
    """Settings of classification and regression of molecules."""

    data: MoleculeDataSettings = field(default_factory=MoleculeDataSettings)
    task: WeightedClassificationSettings = field(default_factory=WeightedClassificationSettings)
