"""Description of a checkpoint of any format: config, preprocessing, labels, and the mapping of its tensors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.models.config import CLASSIFIER_HEADS, Config
from zoo.models.family import Family


@dataclass
class Checkpoint:
    """Description of a checkpoint, as a reader of its format returns it. The tensors are not read yet.

    path: folder or `.ckpt` file. variant: name of the model, if known. mapping: that of another library, see
    `CheckpointMapping`, None for our own format; table: its table for this config, and base: what may stand before
    names, see `zoo.models.mapping.tensors`. architecture: the library's name of the model class. temperature: of the
    probabilities. tensors: the weights, if they stand in another file than the folder's, and are read already. notes:
    what could not be read as it is, for the load report.
    """

    path: Path
    format: str
    family: Family
    config: Config
    variant: str | None = None
    preprocess: Any = None
    labels: list[str] | None = None
    temperature: float = 1.0
    table: str | None = field(init=False)
    base: str = ""
    mapping: Any = None
    architecture: str | None = None
    tensors: Mapping[str, Tensor] | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.table = None if self.mapping is None else self.mapping.table_for(self.config)

    def temperature_of(self, config: Config, initialized: Iterable[str]) -> float:
        """The temperature for a model of this config; 1 if its head is another one, such as one that is new.

        initialized: the parameters that are not from the file.
        """
        is_new = any(name.startswith("head.") for name in initialized)
        kept = config.head in CLASSIFIER_HEADS and config.resolved_problem_type == self.config.resolved_problem_type
        return self.temperature if kept and not is_new else 1.0
