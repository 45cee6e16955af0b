"""Models of several towers in the folders of other libraries: each tower by a dialect of its own family."""

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

# The image processors that we write, and those of the same settings that CLIP's and SigLIP's processors know.
PICTURES = {"BitImageProcessor": "CLIPImageProcessor", "ViTImageProcessor": "SiglipImageProcessor"}


@dataclass(frozen=True, kw_only=True)
class TowerMapping:
    """One tower: where its config stands (`key`), what its tensors begin with (`prefix`), its family, its dialect, and
    how its features enter the common space (`proj`)."""

    key: str
    prefix: str
    family: str
    mapping: CheckpointMapping
    proj: Any = None

    def read(self, theirs: Mapping[str, Any], file: Path) -> Tower:
        """Our tower, from its part of their config."""
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
    """One kind of foreign checkpoint of a model of several towers.

    name: transformers' `model_type`; architecture: its class. parts: by modality. table: what is between the towers,
    see `tensors.py`. read, write: what towers do not say, their config -> fields of ours and back. processor:
    transformers' class for pictures and texts together.
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
        """The weight table of all towers together."""
        return self.table + "".join(
            prefixed(part.mapping.table_for(config.parts[name]), f"{name}.", part.prefix)
            for name, part in self.parts.items()
        )

    def config(self, own: Family, values: Mapping[str, Any], file: Path) -> Config:
        """Our config for theirs."""
        towers = {name: part.read(said(values, part.key), file) for name, part in self.parts.items()}
        return config_of(own, {**towers, "loss": self.loss, **self.read(values)}, file)

    def values(self, own: Family, config: ContrastiveConfig) -> dict[str, Any]:
        """Their config for ours. Raises ValueError naming what they cannot express."""
        lost = [] if set(config.towers) == set(self.parts) else [f"towers for {', '.join(config.towers)}"]
        lost += [] if config.loss == self.loss else [f"loss={config.loss!r}"]
        for name, part in self.parts.items():
            tower = config.towers.get(name)
            if tower is not None and (tower.family, tower.proj) != (part.family, part.proj):
                lost.append(f"{name}: {tower.family} with proj={tower.proj!r}")
        if lost:
            raise ValueError(f"{self.architecture} cannot express {', '.join(lost)}")
        told: dict[str, Any] = {
            part.key: part.mapping.to_theirs(config.parts[name]) for name, part in self.parts.items()
        }
        for key, value in self.write(config).items():  # of a tower's part, or of the whole
            told[key] = told[key] | value if key in told else value
        values = told
        again: Any = self.config(own, values, Path(self.architecture))
        for name, tower in config.towers.items():
            lost += [f"{name}.{what}" for what in differences(tower.config, again.parts[name])]
        lost += [] if again.width == config.width else [f"width={config.width}"]
        if lost:
            raise ValueError(f"{self.architecture} cannot express {', '.join(lost)}")
        return values

    def dress(self, files: dict[str, Any]) -> dict[str, Any]:
        """Processor files of single towers, as those of the whole: {name: contents}."""
        if (picture := files.get("preprocessor_config.json")) is not None:
            kind = PICTURES.get(picture["image_processor_type"], picture["image_processor_type"])
            picture = picture | {"image_processor_type": kind}
            whole = {"processor_class": self.processor, "image_processor": picture}
            named = picture | {"processor_class": self.processor}
            files = files | {"preprocessor_config.json": named, "processor_config.json": whole}
        if (words := files.get("tokenizer_config.json")) is not None:
            files = files | {"tokenizer_config.json": words | {"processor_class": self.processor}}
            if self.loss == "clip" and "pad_token" not in words and (end := words.get("eos_token")):
                # A text is read at its first end: published files pad with more of them, and pipelines must pad.
                for name in ("tokenizer_config.json", "special_tokens_map.json"):
                    files[name] = files.get(name, {}) | {"pad_token": end}
        return files


def said(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A tower's part of a config; in the first of them `text_config_dict` counts instead of `text_config`."""
    found = values.get(f"{key}_dict")
    found = values.get(key) if found is None else found
    return found or {}


def prefixed(table: str, ours: str, theirs: str) -> str:
    """A weight table whose names begin with `ours` and `theirs`."""
    lines = []
    for text in table.splitlines():
        if not (text := text.split("#")[0].strip()):
            continue
        left, _, right = text.partition(" = ")
        words, before = [], ""
        for word in right.split():
            if before == "if":
                word = ours + word
            elif word not in (*OPS, "?", "|", "if"):
                word = theirs + word.removeprefix("~")
            words.append(word)
            before = word
        left = left.strip()
        lines.append(f"{left if left == '-' else ours + left} = {' '.join(words)}")
    return "\n".join(lines) + "\n"
