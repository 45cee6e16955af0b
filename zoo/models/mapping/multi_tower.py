"""Mapping of models with several towers to checkpoints of other libraries; each tower uses a mapping of its family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.models.config import Config
from zoo.models.family import Family, config_of
from zoo.models.mapping.config_keys import CheckpointMapping, differences
from zoo.models.mapping.tensors import OPS
from zoo.models.registry import family
from zoo.models.tower_config import ContrastiveConfig, Tower
from zoo.utils.errors import LoadError

# The image processors that we write, and the equivalent classes that CLIP's and SigLIP's processors expect.
IMAGE_PROCESSORS = {"BitImageProcessor": "CLIPImageProcessor", "ViTImageProcessor": "SiglipImageProcessor"}


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
        start = own.config().to_dict() | dict(self.mapping.defaults)
        try:
            fields = self.mapping.to_ours(start, theirs)
        except LoadError as error:
            raise LoadError(f"{file}: {error}") from None
        except ValueError as error:
            raise LoadError(f"{file}: {self.mapping.name}: {error}") from None
        return Tower(family=self.family, config=config_of(own, fields, file), proj=self.proj)


@dataclass(frozen=True, kw_only=True)
class MultiTowerMapping:
    """Mapping of a model with several towers to one kind of checkpoint of another library.

    name: transformers' `model_type`; architecture: its class. parts: the towers by modality. table: the tensors outside
    the towers, see `tensors.py`. read, write: convert what is outside the towers, from their config to our fields and
    back. processor: transformers' processor class for images and texts.
    """

    name: str
    architecture: str
    parts: Mapping[str, TowerMapping]
    table: str
    loss: str
    read: Callable[[Mapping[str, Any]], dict[str, Any]]
    write: Callable[[Any], dict[str, Any]]
    processor: str = ""
    base: str = ""
    embeds: None = None

    @property
    def heads(self) -> dict[str, dict[str, Any]]:
        return {self.architecture: {}}

    @property
    def assumes(self) -> tuple[str, ...]:
        return (self.architecture,)

    def table_for(self, config: Any) -> str:
        """The table of tensors of the whole model."""
        return self.table + "".join(
            prefixed(part.mapping.table_for(config.parts[name]), f"{name}.", part.prefix)
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

    def processor_files(self, files: dict[str, Any]) -> dict[str, Any]:
        """{file name: contents} of the whole model's processor, from those of its towers."""
        if (image := files.get("preprocessor_config.json")) is not None:
            kind = IMAGE_PROCESSORS.get(image["image_processor_type"], image["image_processor_type"])
            image = image | {"image_processor_type": kind}
            whole = {"processor_class": self.processor, "image_processor": image}
            named = image | {"processor_class": self.processor}
            files = files | {"preprocessor_config.json": named, "processor_config.json": whole}
        if (tokenizer := files.get("tokenizer_config.json")) is not None:
            files = files | {"tokenizer_config.json": tokenizer | {"processor_class": self.processor}}
            if self.loss == "clip" and "pad_token" not in tokenizer and (end := tokenizer.get("eos_token")):
                # Pipelines need a padding token; CLIP may be padded with end tokens, it pools at the first one.
                for name in ("tokenizer_config.json", "special_tokens_map.json"):
                    files[name] = files.get(name, {}) | {"pad_token": end}
        return files


def tower_values(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A tower's part of a config; `text_config_dict`, in old files, overrides `text_config`."""
    found = values.get(f"{key}_dict")
    found = values.get(key) if found is None else found
    return found or {}


def prefixed(table: str, ours: str, theirs: str) -> str:
    """A table of tensors with the prefixes `ours` and `theirs` added to its names."""
    lines = []
    for text in table.splitlines():
        if not (text := text.split("#")[0].strip()):
            continue
        left, _, right = text.partition(" = ")
        tokens, before = [], ""
        for token in right.split():
            if before == "if":
                token = ours + token
            elif token not in (*OPS, "?", "|", "if"):
                token = theirs + token.removeprefix("~")
            tokens.append(token)
            before = token
        left = left.strip()
        lines.append(f"{left if left == '-' else ours + left} = {' '.join(tokens)}")
    return "\n".join(lines) + "\n"
