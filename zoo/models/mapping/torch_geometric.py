"""Mapping of a family to networks of torch_geometric, whose files say little of what they are: the tensors show."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zoo.models.config import Config
from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.models.mapping.tensors import export_tensors


@dataclass(frozen=True, kw_only=True)
class NetworkMapping(CheckpointMapping):
    """A mapping to a network of torch_geometric; "they" are its arguments and its state dict.

    arguments: what the tensors of a file show of the arguments, some of which config.json does not have; None for the
        tensors of another network.
    read_tensors: the tensors of a file as the table names them.
    write_tensors: our tensors, of a model with this config, in the form that the table has.
    unused: their names and values, for a config, of the tensors of their state dict that nothing reads.
    inferred: names of arguments that are not written, as their class does not have them.
    """

    arguments: Callable[[Mapping[str, Tensor]], dict[str, Any] | None]
    read_tensors: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda tensors: tensors
    write_tensors: Callable[[dict[str, Tensor], Any], dict[str, Tensor]] = lambda tensors, config: tensors
    unused: Callable[[dict[str, Tensor], Any], dict[str, Tensor]] = lambda tensors, config: {}
    inferred: tuple[str, ...] = ()

    def exported(self, tensors: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
        """Their state dict, of our tensors."""
        found = export_tensors(self.table_for(config), self.write_tensors(tensors, config))
        return found | self.unused(found, config)
