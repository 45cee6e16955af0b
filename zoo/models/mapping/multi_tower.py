"""Mapping of models with several towers to checkpoints of other libraries; each tower uses a mapping of its family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.models.config import Config
from zoo.models.family import Family, config_of
from zoo.models.mapping.config_keys import CheckpointMapping, differences
from zoo.models.mapping.towers import TowersMapping, prefixed, tower_fields, tower_values
from zoo.models.registry import family
from zoo.models.tower_config import ContrastiveConfig, Tower


@dataclass(frozen=True, kw_only=True)
class TowerMapping:
    """One tower: the key of its config, the prefix of its tensors, its family, the mapping of the family, and the
    projection of its features into the shared space."""

    key: str
    prefix: str
    family: str
    mapping: CheckpointMapping
    proj: Any = None

    def read(self, theirs: Mapping[str, Any], file: Path) -> Tower:
        """Our tower from its part of their config. Raises LoadError naming the file."""
        own = family(self.family)
        fields = tower_fields(own, self.mapping, theirs, str(file))
        return Tower(family=self.family, config=config_of(own, fields, file), proj=self.proj)


@dataclass(frozen=True, kw_only=True)
class MultiTowerMapping(TowersMapping):
    """Mapping of a model of towers with a shared space to one kind of checkpoint of another library.

    read: from their config to our fields outside the towers. loss: of the models. See TowersMapping.
    """

    parts: Mapping[str, TowerMapping]
    loss: str
    read: Callable[[Mapping[str, Any]], dict[str, Any]]

    def table_for(self, config: Any) -> str:
        """The table of tensors of the whole model."""
        return self.table + "".join(
            prefixed(part.mapping.table_for(config.parts[name]), f"{name}.", (part.prefix,))
            for name, part in self.parts.items()
        )

    def config(self, own: Family, values: Mapping[str, Any], file: Path) -> Config:
        """Our config for theirs. Raises LoadError naming the file."""
        towers = {name: part.read(tower_values(values, part.key), file) for name, part in self.parts.items()}
        return config_of(own, {**towers, "loss": self.loss, **self.read(values)}, file)

    def values(self, own: Family, config: ContrastiveConfig) -> dict[str, Any]:
        """Their config for ours. Raises ValueError naming the fields that it cannot express."""
        lost = [] if set(config.towers) == set(self.parts) else [f"towers for {', '.join(config.towers)}"]
        lost += [] if config.loss == self.loss else [f"loss={config.loss!r}"]
        for name, part in self.parts.items():
            tower = config.towers.get(name)
            if tower is not None and (tower.family, tower.proj) != (part.family, part.proj):
                lost.append(f"{name}: {tower.family} with proj={tower.proj!r}")
        if lost:
            raise ValueError(f"{self.architecture} cannot express {', '.join(lost)}")
        values: dict[str, Any] = {
            part.key: part.mapping.to_theirs(config.parts[name]) for name, part in self.parts.items()
        }
        for key, value in self.write(config).items():  # a tower's config, or a key of the whole
            values[key] = values[key] | value if key in values else value
        again: Any = self.config(own, values, Path(self.architecture))
        for name, tower in config.towers.items():
            lost += [f"{name}.{field}" for field in differences(tower.config, again.parts[name])]
        lost += [] if again.width == config.width else [f"width={config.width}"]
        if lost:
            raise ValueError(f"{self.architecture} cannot express {', '.join(lost)}")
        return values

    def processor_settings(self, config: Any, image: Mapping[str, Any]) -> dict[str, Any]:
        return {"image_processor": image}

    def processor_files(self, files: dict[str, Any], config: Any) -> dict[str, Any]:
        files = super().processor_files(files, config)
        tokenizer = files.get("tokenizer_config.json", {})
        if self.loss == "clip" and "pad_token" not in tokenizer and (end := tokenizer.get("eos_token")):
            # Pipelines need a padding token; CLIP may be padded with end tokens, it pools at the first one.
            for name in ("tokenizer_config.json", "special_tokens_map.json"):
                files[name] = files.get(name, {}) | {"pad_token": end}
        return files
