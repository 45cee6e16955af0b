"""What a reader of any format returns: config, preprocessing, labels and how to map the tensors."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.models.config import Config
from zoo.models.family import Family


@dataclass
class Checkpoint:
    """A source, described in our words. Its tensors are still on disk and, with a table, under their names.

    mapping: a Dialect, or Towers of several. architecture: what the other library builds it with. notes: what could
    not be taken as it stands.
    """

    path: Path
    format: str
    family: Family
    config: Config
    variant: str | None = None
    preprocess: Any = None
    labels: list[str] | None = None
    table: str | None = None
    base: str = ""
    mapping: Any = None
    architecture: str | None = None
    notes: list[str] = field(default_factory=list)
