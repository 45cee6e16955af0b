"""Options of the recipes that make images. Torch-free, because `--help` reads this file."""

from dataclasses import dataclass, field

from zoo.data.unlabeled_config import UnlabeledImageSettings
from zoo.tasks.config import ImageTokenizerSettings
from zoo.training.config import RunSettings


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings(RunSettings):
    """Settings of image tokenizers."""

    data: UnlabeledImageSettings = field(default_factory=UnlabeledImageSettings)
    task: ImageTokenizerSettings = field(default_factory=ImageTokenizerSettings)
