"""Description of a checkpoint of any format: config, preprocessing, labels, and the mapping of its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.models.config import Config
from zoo.models.family import Family


@dataclass
class Checkpoint:
    """Description of a checkpoint, as a reader of its format returns it. The tensors are not read yet.

    path: folder or `.ckpt` file. variant: name of the model, if known. table, base: map the names of the tensors, see
    `zoo.models.mapping.tensors`; None for our own format. mapping: CheckpointMapping or MultiTowerMapping of the other
    library. architecture: its name of the model class. temperature: of the
    probabilities. tensors: the weights, if they stand in another file than the
    folder's, and are read already. notes: what could not be read as it is, for the load report.
    """

    path: Path
    format: str
    family: Family
    config: Config
    variant: str | None = None
    preprocess: Any = None
    labels: list[str] | None = None
    temperature: float = 1.0
    table: str | None = None
    base: str = ""
    mapping: Any = None
    architecture: str | None = None
    tensors: Mapping[str, Tensor] | None = None
    notes: list[str] = field(default_factory=list)
