"""The dataclass that describes a family of models."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.models.base import Model
from zoo.models.config import Config
from zoo.nn.pruned_heads import remove_heads
from zoo.utils.errors import LoadError


@dataclass(frozen=True)
class Family:
    """A family of models: its classes, variants and checkpoint formats.

    variants: {model name: overrides of the config's defaults}. sources: {model name: hub repository of its weights}.
    mappings: {format ("timm", "transformers", "torch_geometric"): its checkpoint mapping or mappings}.
    """

    name: str
    model: type[Model]
    config: type[Config]
    modality: str
    variants: dict[str, dict[str, Any]]
    sources: dict[str, str] = field(default_factory=dict)
    mappings: dict[str, Any] = field(default_factory=dict)

    def make_model(self, config: Config) -> Model:
        """A model of a config, without the heads that it says were removed."""
        model = self.model(config)
        if config.pruned_heads:
            remove_heads(model, config.pruned_heads)
        return model


def config_of(family: Family, fields: dict[str, Any], source: Path) -> Config:
    """The family's config from its fields. Raises LoadError naming the file `source` if they are not valid."""
    try:
        return family.config(**fields)
    except (TypeError, ValueError) as error:
        raise LoadError(f"{source}: {error}") from None
