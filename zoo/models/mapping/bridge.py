"""Mapping of bridges, an encoder and a text decoder, to transformers: each tower uses a mapping of its family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from zoo.models.config import Config
from zoo.models.family import Family, config_of
from zoo.models.mapping.config_keys import CheckpointMapping, differences
from zoo.models.mapping.multi_tower import IMAGE_PROCESSORS, tower_values
from zoo.models.mapping.tensors import OPS
from zoo.models.registry import family
from zoo.models.tower_config import Part
from zoo.utils.errors import LoadError


@dataclass(frozen=True, kw_only=True)
class TowerChoices:
    """One tower: the key of its config, and the mappings that it may have, the first by default.

    bases: what stands before the names with `~` of its table in files, that of exported ones first; others: what
    stands before the other names. families: of the mappings. fields: of our config, whatever the file says. absent:
    their config where a file has none. ignored: keys that do not count. writes: further keys for export by the name of
    the mapping. extra: further lines of the table.
    """

    key: str
    bases: tuple[str, ...]
    mappings: tuple[CheckpointMapping, ...]
    families: tuple[str, ...]
    fields: Mapping[str, Any]
    others: tuple[str, ...] = ("",)
    absent: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    writes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    extra: str = ""

    def read(self, theirs: Mapping[str, Any], file: Path) -> Part:
        """Our tower from its part of their config. Raises LoadError naming the file."""
        theirs = {name: value for name, value in (theirs or self.absent).items() if name not in self.ignored}
        known = {mapping.name: pair for pair in zip(self.mappings, self.families) for mapping in pair[:1]}
        name = str(theirs.get("model_type") or self.mappings[0].name)
        if name not in known:
            raise LoadError(
                f"{file}: {self.key} has model_type {name!r}, which is not supported here, only {', '.join(known)}"
            )
        mapping, family_name = known[name]
        own = family(family_name)
        start = own.config().to_dict() | dict(mapping.defaults)
        try:
            fields = mapping.to_ours(start, theirs) | dict(self.fields)
        except LoadError as error:
            raise LoadError(f"{file}: {self.key}: {error}") from None
        except ValueError as error:
            raise LoadError(f"{file}: {self.key}: {mapping.name}: {error}") from None
        return Part(family=family_name, config=config_of(own, fields, file))

    def write(self, tower: Part) -> tuple[dict[str, Any], list[str]]:
        """(their config for ours, the fields that it cannot express), of the mapping that expresses most."""
        found: list[tuple[dict[str, Any], list[str]]] = []
        for mapping, family_name in zip(self.mappings, self.families):
            if family_name != tower.family:
                continue
            config = mapping.rewrite(tower.config)
            values = {"model_type": mapping.name} | mapping.to_theirs(config)
            again = self.read(values, Path(mapping.name))
            found.append((values | dict(self.writes.get(mapping.name, {})), differences(config, again.config)))
        return min(found, key=lambda pair: len(pair[1]), default=({}, [f"the family {tower.family}"]))

    def table(self, tower: Part, ours: str) -> str:
        """The table of its tensors, those of ours with the prefix `ours`."""
        mapping = next(m for m, name in zip(self.mappings, self.families) if name == tower.family)
        return prefixed(mapping.table_for(tower.config) + self.extra, ours, self.bases, self.others)


@dataclass(frozen=True, kw_only=True)
class BridgeMapping:
    """Mapping of bridges to one kind of checkpoint of transformers.

    name: its `model_type`; architecture: its class. parts: the towers. table: the tensors outside them, see
    `tensors.py`. read, write: convert what is outside the towers, from their config and our towers to our fields, and
    from our config back. processor: transformers' processor class; processor_values,
    image_processor_values: settings of it and of its image processor for a model. around: the token that it writes
    before and after an image.
    """

    name: str
    architecture: str
    parts: Mapping[str, TowerChoices]
    table: str
    read: Callable[[Mapping[str, Any], Mapping[str, Part]], dict[str, Any]]
    write: Callable[[Any], dict[str, Any]]
    processor: str
    processor_values: Callable[[Any], dict[str, Any]]
    image_processor_values: Callable[[Any], dict[str, Any]] = lambda config: {}
    around: str = ""
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
        towers = [part.table(config.towers[name], f"{name}.") for name, part in self.parts.items()]
        return "\n".join([self.table, *towers])

    def config(self, own: Family, values: Mapping[str, Any], file: Path) -> Config:
        """Our config for theirs. Raises LoadError naming the file."""
        towers = {}
        for name, part in self.parts.items():
            theirs = dict(tower_values(values, part.key))
            if name == "text":
                # the end of a text may stand in generation_config.json, and whether weights are tied in either config
                theirs |= {key: values[key] for key in ("eos_token_id", "pad_token_id") if values.get(key) is not None}
                theirs |= {"tie_word_embeddings": True} if values.get("tie_word_embeddings") else {}
            towers[name] = part.read(theirs, file)
        try:
            fields = self.read(values, towers)
        except LoadError as error:
            raise LoadError(f"{file}: {self.name}: {error}") from None
        return config_of(own, {**towers, **fields}, file)

    def values(self, own: Family, config: Any) -> dict[str, Any]:
        """Their config for ours. Raises ValueError naming the fields that it cannot express."""
        lost = [] if set(config.towers) == set(self.parts) else [f"towers for {', '.join(config.towers)}"]
        values: dict[str, Any] = {}
        for name, part in self.parts.items():
            if name in config.towers:
                values[part.key], different = part.write(config.towers[name])
                lost += [f"{name}.{each}" for each in different]
        if lost:
            raise ValueError(f"transformers' {self.architecture} cannot express {', '.join(lost)}")
        values |= self.write(config)
        values["tie_word_embeddings"] = config.text.config.tie_word_embeddings
        again: Any = self.config(own, values, Path(self.architecture))
        outside = [name for name in config.names() if name not in self.parts]
        if lost := [f"{n}={getattr(config, n)!r}" for n in outside if getattr(config, n) != getattr(again, n)]:
            raise ValueError(f"transformers' {self.architecture} cannot express {', '.join(lost)}")
        return values

    def processor_files(self, files: dict[str, Any], config: Any) -> dict[str, Any]:
        """{file name: contents} of the whole model's processor, from those of its towers."""
        own = {"processor_class": self.processor} | self.processor_values(config)
        if (image := files.get("preprocessor_config.json")) is not None:
            kind = IMAGE_PROCESSORS.get(image["image_processor_type"], image["image_processor_type"])
            image = image | {"image_processor_type": kind, "processor_class": self.processor}
            image |= self.image_processor_values(config)
            files = files | {"preprocessor_config.json": image, "processor_config.json": own}
        if (tokenizer := files.get("tokenizer_config.json")) is not None:
            files = files | {"tokenizer_config.json": tokenizer | {"processor_class": self.processor}}
        return files


def prefixed(table: str, ours: str, bases: tuple[str, ...], others: tuple[str, ...]) -> str:
    """A table of tensors of a tower: `ours` before our names, and each of `bases` (for those with `~`) or `others`
    before their names, as alternatives."""
    lines = []
    for text in table.splitlines():
        if not (text := text.split("#")[0].strip()):
            continue
        left, _, right = (part.strip() for part in text.partition(" = "))
        tokens = right.split()
        end = next((i for i, token in enumerate(tokens) if token in (*OPS, "?", "if")), len(tokens))
        names = [token for token in tokens[:end] if token != "|"]
        full = chain.from_iterable(
            [before + name.removeprefix("~") for before in (bases if name[0] == "~" else others)] for name in names
        )
        rest = [
            f"{ours}{token}" if before == "if" else token for before, token in zip(["", *tokens[end:]], tokens[end:])
        ]
        lines.append(f"{left if left == '-' else ours + left} = {' | '.join(full)} {' '.join(rest)}".strip())
    return "\n".join(lines) + "\n"
