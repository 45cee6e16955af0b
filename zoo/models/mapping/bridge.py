"""Mapping of bridges, an encoder and a text decoder, to transformers: each tower uses a mapping of its family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.models.config import Config
from zoo.models.family import Family, config_of
from zoo.models.mapping.config_keys import CheckpointMapping, differences
from zoo.models.mapping.towers import TowersMapping, prefixed, tower_fields, tower_values
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
        fields = tower_fields(own, mapping, theirs, f"{file}: {self.key}") | dict(self.fields)
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
class BridgeMapping(TowersMapping):
    """Mapping of bridges to one kind of checkpoint of transformers.

    read: from their config and our towers to our fields outside the towers. processor_values: settings of their
    processor for a model. around: the token that it writes before and after an image. See TowersMapping.
    """

    parts: Mapping[str, TowerChoices]
    read: Callable[[Mapping[str, Any], Mapping[str, Part]], dict[str, Any]]
    processor_values: Callable[[Any], dict[str, Any]]
    around: str = ""

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

    def processor_settings(self, config: Any, image: Mapping[str, Any]) -> dict[str, Any]:
        return self.processor_values(config)
