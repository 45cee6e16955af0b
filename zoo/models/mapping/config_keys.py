"""How another library writes a family: the keys of its config and the names of its tensors, as data."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from zoo.models.config import NAMING, SIZES, Config, frozen, plain
from zoo.models.family import Family
from zoo.utils.errors import LoadError

# Fields that shape training alone: a format without a word for them still computes the same.
TRAINING_ONLY = ("dropout", "attention_dropout", "drop_path")


@dataclass(frozen=True, kw_only=True)
class CheckpointMapping:
    """One kind of foreign checkpoint of a family.

    name: transformers' `model_type`; for timm, the name that messages use.
    keys: a table of text like that of the weights, `ours = theirs [their_word=our_word ...]`.
    table, base: tensors and their prefix, see `tensors.py`. head_tables: further lines, for models with that head.
    defaults: fields of ours where the file says nothing (over the config's own defaults).
    heads: their class -> the fields of ours that it stands for; the first that fits is written.
    embeds: fields of a model that makes one vector of a text, in a folder of sentence-transformers; None: not read.
    assumes: the class, in a list, where a file does not say it; none: such a file is refused.
    only: their key -> the values that we compute the same way; any other is refused by name.
    others: further keys, understood by `read` or without effect on the numbers. Given, an unknown key is refused by
        name; not given, unknown keys are passed over, as transformers does with its own.
    read, write: what `keys` cannot say, their config -> fields of ours and back.
    rewrite: an equal config in the one form that this dialect can write.
    writes: further keys that are always written.
    architectures: timm's functions that an exported model can be built by, when its own name is not one of timm's.
    own_names: prefixes of variant names that are ours alone.
    """

    name: str
    keys: str
    table: str
    base: str = ""
    head_tables: Mapping[str | None, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    heads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    embeds: Mapping[str, Any] | None = None
    assumes: tuple[str, ...] = ()
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    others: tuple[str, ...] | None = None
    read: Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]] = lambda fields, theirs: {}
    write: Callable[[Any], dict[str, Any]] = lambda config: {}
    rewrite: Callable[[Any], Any] = lambda config: config
    writes: Mapping[str, Any] = field(default_factory=dict)
    architectures: tuple[str, ...] = ()
    own_names: tuple[str, ...] = ()

    def table_for(self, config: Config) -> str:
        """The weight table of a model with this config."""
        return self.table + self.head_tables.get(config.head, "")

    def to_ours(self, fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
        """`fields`, with what their config says put over them."""
        for name, allowed in self.only.items():
            if name in theirs and theirs[name] not in allowed:
                raise LoadError(f"{self.name}: {name}={theirs[name]!r} is not supported, only {_listed(allowed)}")
        known = {name for _, name, _ in key_lines(self.keys)} | self.only.keys() | set(self.others or ())
        if self.others is not None and (unknown := sorted(theirs.keys() - known)):
            raise LoadError(f"{self.name}: {unknown[0]}={theirs[unknown[0]]!r} is not supported")
        fields = dict(fields)
        for ours, name, words in key_lines(self.keys):
            if name in theirs:
                value = theirs[name]
                fields[ours] = words.get(value, value) if isinstance(value, str) else frozen(value)
        return fields | self.read(fields, theirs)

    def to_theirs(self, config: Config) -> dict[str, Any]:
        """Their keys for a config of ours."""
        result: dict[str, Any] = dict(self.writes)
        values = written_out({name: getattr(config, name) for name in config.names()})
        for ours, name, words in key_lines(self.keys):
            value = values[ours]
            said = next((their_word for their_word, word in words.items() if word == value), value)
            result[name] = list(said) if isinstance(said, tuple) else said
        return result | self.write(config)


@lru_cache
def key_lines(keys: str) -> tuple[tuple[str, str, dict[str, str]], ...]:
    """(ours, theirs, {their word: our word}) for each line."""
    lines = [line.replace(" = ", " ").split() for line in keys.splitlines() if line.strip()]
    return tuple((ours, theirs, dict(word.split("=") for word in words)) for ours, theirs, *words in lines)


def mappings(families: Iterator[Family], format: str) -> Iterator[tuple[Family, CheckpointMapping]]:
    """Every (family, dialect) of a format; a family may have one or a tuple of them."""
    for family in families:
        found = family.mappings.get(format, ())
        for mapping in found if isinstance(found, tuple) else (found,):
            yield family, mapping


def differences(config: Config, other: Config) -> list[str]:
    """What `other` does not say of `config`: ["attention='performer'"]. Empty when both compute the same."""
    ours, theirs = settled(config), settled(other)
    return [f"{name}={getattr(config, name, None)!r}" for name in ours if ours[name] != theirs[name]]


def settled(config: Config) -> dict[str, Any]:
    """The fields that decide the numbers, with None and shorthands written out."""
    values = {name: plain(getattr(config, name)) for name in config.names() if name not in TRAINING_ONLY}
    if values.get("head") not in NAMING:
        values.pop("num_classes", None)
    if values.get("pool") == "argmax":  # whichever it is, it is not looked for
        values.pop("eos_token_id", None)
    values["problem_type"] = config.resolved_problem_type if values.get("head") == "classify" else None
    unused = {"classify": ("normalize",), "pool": ()}.get(values.get("head") or "", ("pool", "pooler", "normalize"))
    for name in unused:
        values.pop(name, None)
    for name in SIZES:
        if isinstance(values.get(name), int):
            values[name] = [values[name]] * 2
    values = written_out(values)
    if values.get("layer_scale") is not None:
        values["layer_scale"] = True  # its value is only where training starts
    return values


def written_out(values: dict[str, Any]) -> dict[str, Any]:
    """Fields of a config with the values that None stands for."""
    usual: dict[str, Callable[[], int]] = {
        "mlp_dim": lambda: 4 * values["width"],
        "kv_heads": lambda: values["heads"],
        "head_dim": lambda: values["width"] // values["heads"],
    }
    return {name: usual[name]() if value is None and name in usual else value for name, value in values.items()}


def _listed(values: tuple[Any, ...]) -> str:
    return " or ".join(repr(value) for value in values)
