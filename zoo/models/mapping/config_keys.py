"""Mapping of a family to a checkpoint format of another library: config keys and tensor names, as data."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import lru_cache
from typing import Any

from zoo.models.config import CLASSIFIER_HEADS, SIZES, Config, to_json_types, to_tuples
from zoo.models.family import Family
from zoo.utils.errors import LoadError

# Fields that only affect training: a format that cannot express them still computes the same outputs.
TRAINING_ONLY = ("dropout", "attention_dropout", "drop_path")
# {transformers' name: ours}; export writes the first one.
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "swish": "silu"}


@dataclass(frozen=True, kw_only=True)
class CheckpointMapping:
    """Mapping of a family to one kind of checkpoint of another library. "Theirs" is the other library.

    name: transformers' `model_type`; for timm and open_clip, the name used in messages.
    keys: text table of config keys, `ours = theirs [their_value=our_value ...]`; `activations` stands for the names of
        activations in transformers.
    table, base: text table of tensors and their prefix, see `tensors.py`. head_tables: {head: additional lines}.
    defaults: values of our fields that a file may omit (instead of the defaults of our config).
    heads: {their class: values of our fields}; export uses the first class that matches.
    embeds: values of our fields for a text embedding model in a sentence-transformers folder; None: not supported.
    bare_heads: heads of ours whose model is written as their class without a head, unless a class in `heads` has them.
    assumes: the class, in a tuple, of a file that does not name one; empty: such a file raises LoadError.
    if_in_file: {a field of ours that is True or False: a tensor of ours}: True if the file has it, which no key says.
    only: {their key: values that compute the same as our models}; any other value raises LoadError.
    others: further keys that `read` uses or that do not affect outputs. If set, an unknown key raises LoadError; None:
        unknown keys are ignored, as transformers does.
    aliases: {another name of a key in files: the key}, transformers' `attribute_map`.
    read, write: convert what `keys` cannot express, from their config to our fields and back.
    rewrite: returns an equivalent config in the form that this format can express.
    writes: further keys for export, with fixed values.
    architectures: timm's model functions for export of a variant whose name timm does not have.
    own_names: prefixes of variant names that the other library does not have.
    """

    name: str
    keys: str
    table: str
    base: str = ""
    head_tables: Mapping[str | None, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    heads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    embeds: Mapping[str, Any] | None = None
    bare_heads: tuple[str, ...] = ("pool",)
    assumes: tuple[str, ...] = ()
    if_in_file: Mapping[str, str] = field(default_factory=dict)
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    others: tuple[str, ...] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]] = lambda fields, theirs: {}
    write: Callable[[Any], dict[str, Any]] = lambda config: {}
    rewrite: Callable[[Any], Any] = lambda config: config
    writes: Mapping[str, Any] = field(default_factory=dict)
    architectures: tuple[str, ...] = ()
    own_names: tuple[str, ...] = ()

    def table_for(self, config: Config) -> str:
        """The table of tensors for a model with this config."""
        return self.table + self.head_tables.get(config.head, "")

    def to_ours(self, fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
        """`fields`, updated with the values of their config. Raises LoadError naming an unsupported value."""
        theirs = self._without_aliases(theirs)
        for name, allowed in self.only.items():
            if name in theirs and theirs[name] not in allowed:
                raise LoadError(f"{self.name}: {name}={theirs[name]!r} is not supported, only {_alternatives(allowed)}")
        known = {name for _, name, _ in key_lines(self.keys)} | self.only.keys() | set(self.others or ())
        if self.others is not None and (unknown := sorted(theirs.keys() - known)):
            raise LoadError(f"{self.name}: {unknown[0]}={theirs[unknown[0]]!r} is not supported")
        fields = dict(fields)
        for ours, name, translations in key_lines(self.keys):
            if name in theirs:
                value = theirs[name]
                fields[ours] = translations.get(value, value) if isinstance(value, str) else to_tuples(value)
        return fields | self.read(fields, theirs)

    def _without_aliases(self, theirs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Their config with each alias under the name of its key. Raises LoadError where both stand and differ."""
        found = {alias: name for alias, name in self.aliases.items() if alias in theirs}
        for alias, name in found.items():
            if name in theirs and theirs[name] != theirs[alias]:
                raise LoadError(
                    f"{self.name}: {alias}={theirs[alias]!r} and {name}={theirs[name]!r} differ, and both are names of "
                    f"the same setting: remove one of them"
                )
        renamed = {name: theirs[alias] for alias, name in found.items()}
        return {name: value for name, value in theirs.items() if name not in found} | renamed

    def to_theirs(self, config: Config) -> dict[str, Any]:
        """Their config for ours."""
        result: dict[str, Any] = dict(self.writes)
        values = resolve_defaults({name: getattr(config, name) for name in config.names()})
        for ours, name, translations in key_lines(self.keys):
            value = values[ours]
            value = next((their_value for their_value, our_value in translations.items() if our_value == value), value)
            result[name] = list(value) if isinstance(value, tuple) else value
        return result | self.write(config)


@lru_cache
def key_lines(keys: str) -> tuple[tuple[str, str, dict[str, str]], ...]:
    """(ours, theirs, {their value: our value}) of each line."""
    lines = [line.replace(" = ", " ").split() for line in keys.splitlines() if line.strip()]
    return tuple((ours, theirs, translations(words)) for ours, theirs, *words in lines)


def translations(words: Sequence[str]) -> dict[str, str]:
    """{their value: our value} of the words of a line, `their_value=our_value` or `activations`."""
    found: dict[str, str] = {}
    for word in words:
        found |= ACTIVATIONS if word == "activations" else dict([word.split("=")])
    return found


def mappings(families: Iterator[Family], format: str) -> Iterator[tuple[Family, CheckpointMapping]]:
    """All (family, mapping) pairs of a format; a family may have one mapping or a tuple of them."""
    for family in families:
        found = family.mappings.get(format, ())
        for mapping in found if isinstance(found, tuple) else (found,):
            yield family, mapping


def differences(config: Config, other: Config) -> list[str]:
    """Fields of `config` that `other` does not have: ["attention='performer'"]. Empty if both compute the same."""
    ours, theirs = canonical_fields(config), canonical_fields(other)
    return [f"{name}={getattr(config, name, None)!r}" for name in ours if ours[name] != theirs[name]]


def trainable_instead(config: Config, lost: Sequence[str]) -> str:
    """The end of a message that a format cannot express `lost`: the defaults of these fields, which it can.

    Empty if there are none. The fields shape the weights, so they have to be chosen before training.
    """
    defaults = {field.name: field.default for field in fields(config) if field.default is not MISSING}
    names = [entry.partition("=")[0] for entry in lost]
    instead = {name: defaults[name] for name in names if name in defaults and defaults[name] != getattr(config, name)}
    try:
        config.replace(**instead)
    except ValueError:
        return ""
    chosen = ", ".join(f"{name}={value!r}" for name, value in instead.items())
    options = " ".join(f"model.{name}={to_option(value)}" for name, value in instead.items())
    return f". It can express {chosen}: train a model with that (options of a recipe: {options})" if instead else ""


def to_option(value: Any) -> str:
    """A value as written on the command line of a recipe."""
    return json.dumps(value) if not isinstance(value, str) else value


def canonical_fields(config: Config) -> dict[str, Any]:
    """The fields that affect the outputs, with None and shorthands resolved."""
    values = {name: to_json_types(getattr(config, name)) for name in config.names() if name not in TRAINING_ONLY}
    if values.get("head") not in CLASSIFIER_HEADS:
        values.pop("num_classes", None)
    values.pop("position_antialias", None)  # affects other image sizes only
    if values.get("pool") == "argmax":  # not used by this pooling
        values.pop("eos_token_id", None)
    values["problem_type"] = config.resolved_problem_type if values.get("head") == "classify" else None
    unused = {"classify": ("normalize",), "pool": ()}.get(values.get("head") or "", ("pool", "pooler", "normalize"))
    for name in unused:
        values.pop(name, None)
    for name in SIZES:
        if isinstance(values.get(name), int):
            values[name] = [values[name]] * 2
    values = resolve_defaults(values)
    if values.get("layer_scale") is not None:
        values["layer_scale"] = True  # its value only affects initialization
    return values


def resolve_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Fields of a config with None replaced by the values that it stands for."""
    defaults: dict[str, Callable[[], int]] = {
        "mlp_dim": lambda: 4 * values["width"],
        "kv_heads": lambda: values["heads"],
        "head_dim": lambda: values["width"] // values["heads"],
        "decoder_width": lambda: values["width"],
        "decoder_depth": lambda: values["depth"],
        "decoder_heads": lambda: values["heads"],
        "decoder_mlp_dim": lambda: values["mlp_dim"] or 4 * values["width"],
    }
    return {name: defaults[name]() if value is None and name in defaults else value for name, value in values.items()}


def _alternatives(values: tuple[Any, ...]) -> str:
    return " or ".join(repr(value) for value in values)
