"""Options as nested dataclasses: list them with their help texts, build them from dicts, convert them to dicts.

The help text of an option is its line under `Attributes:` in the docstring of its dataclass.
"""

import inspect
import types
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Option:
    """One option, such as `trainer.epochs`: its type, default and help text."""

    path: str
    kind: Any
    default: Any
    meaning: str


def options(cls: type, prefix: str = "") -> Iterator[Option]:
    """All options of a settings class, depth first: nested sections follow the plain fields."""
    hints, meanings, default = get_type_hints(cls), _meanings(cls), cls()
    for entry in sorted(fields(cls), key=lambda f: is_dataclass(hints[f.name])):
        path = prefix + entry.name
        if is_dataclass(hints[entry.name]):
            yield from options(hints[entry.name], path + ".")
        else:
            yield Option(path, hints[entry.name], getattr(default, entry.name), meanings.get(entry.name, ""))


def sections(cls: type, prefix: str = "") -> dict[str, type]:
    """The nested dataclasses of a settings class by path: `{"data": ..., "data.augment": ...}`."""
    found: dict[str, type] = {}
    for name, kind in get_type_hints(cls).items():
        if is_dataclass(kind) and isinstance(kind, type):
            found[prefix + name] = kind
            found |= sections(kind, f"{prefix}{name}.")
    return found


def build(cls: type, values: dict[str, Any]) -> Any:
    """Build a settings object from the nested dict of `as_dict`; types are checked by the parser."""
    nested = sections(cls)
    arguments = {}
    for name, value in values.items():
        kind = nested.get(name)
        arguments[name] = build(kind, value) if kind else tuple(value) if _is_tuple(cls, name) else value
    return cls(**arguments)


def as_dict(settings: Any) -> dict[str, Any]:
    """Convert settings to nested dicts and lists of plain values, as in `config.yaml`."""
    return _plain(asdict(settings))


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"trainer": {"epochs": 3}}` -> `{"trainer.epochs": 3}`; `model.overrides` is flattened, too.

    A dict with a `kind`, such as `attention: {kind: local, window: 9}`, is a value and no section.
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and prefix != "model.overrides." and "kind" not in value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _is_tuple(cls: type, name: str) -> bool:
    kind = get_type_hints(cls)[name]
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return any(get_origin(k) is tuple for k in kinds)


def _meanings(cls: type) -> dict[str, str]:
    """Help texts from the `Attributes:` lines of a settings class and its parents, with continued lines joined."""
    found: dict[str, str] = {}
    for parent in reversed(cls.__mro__):
        lines = inspect.cleandoc(parent.__doc__ or "").partition("Attributes:")[2].splitlines()
        name = ""
        for line in (entry for entry in lines if entry.strip()):
            if line.startswith("    ") and not line.startswith("     "):
                name, _, text = line.strip().partition(": ")
                found[name] = text
            elif name:
                found[name] += " " + line.strip()
    return found
