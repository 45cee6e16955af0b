"""Bridges (an encoder and a text decoder, such as LLaVA) in transformers' format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.checkpoints.formats.checkpoint import Checkpoint
from zoo.models.base import Model
from zoo.models.config import Config
from zoo.models.family import Family
from zoo.models.mapping.bridge import BridgeMapping
from zoo.models.mapping.tensors import config_as_tied


def read(folder: Path, values: Mapping[str, Any], own: Family, mapping: BridgeMapping) -> Checkpoint:
    """Read a folder of transformers with a mapping."""
    config: Any = mapping.config(own, values, folder / "config.json")
    return Checkpoint(
        path=folder,
        format="transformers",
        family=own,
        config=config,
        table=mapping.table_for(config),
        mapping=mapping,
        architecture=mapping.architecture,
    )


def describe(model: Model, own: Family, mapping: BridgeMapping) -> tuple[dict[str, Any], Any, Config]:
    """(config.json, mapping, the config it describes)."""
    tied = config_as_tied(model.text).tie_word_embeddings  # type: ignore[arg-type,union-attr]
    config: Any = model.config.replace(**{"text.tie_word_embeddings": tied})
    start = {"architectures": [mapping.architecture], "model_type": mapping.name, "dtype": str(model.dtype)[6:]}
    return start | mapping.values(own, config), mapping, config
