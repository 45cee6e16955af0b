"""The record that declares a family of models."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.models.base import Model
from zoo.models.config import Config
from zoo.utils.errors import LoadError


@dataclass(frozen=True)
class Family:
    """One family: its classes, its named variants (overrides of the config), where each comes from by default, and how
    other libraries write it (`mappings`: "timm", "transformers", "open_clip")."""

    name: str
    model: type[Model]
    config: type[Config]
    modality: str
    variants: dict[str, dict[str, Any]]
    sources: dict[str, str] = field(default_factory=dict)
    mappings: dict[str, Any] = field(default_factory=dict)


def config_of(family: Family, fields: dict[str, Any], source: Path) -> Config:
    """The family's config, its complaints as a LoadError that names the file."""
    try:
        return family.config(**fields)
    except (TypeError, ValueError) as error:
        raise LoadError(f"{source}: {error}") from None
