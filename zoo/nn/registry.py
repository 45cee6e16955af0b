"""Attention kinds by name, and the door for one's own.

An attention is given as a name (`"performer"`), a name with options (`{"kind": "local", "window": 9}`), a `Core` class,
`"my_file:MyCore"`, or a list of these over the layers. What a config keeps is always a name: only `admit`, which
is called with what a user wrote in code or on a command line, ever imports a file; reading a saved config never does.
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from zoo.nn.core import Core, CoreSpec
from zoo.nn.init import initialized_by_itself
from zoo.nn.linear_attention import LinearAttention, Performer, RandomFeatureAttention
from zoo.nn.softmax_attention import AdditiveAttention, SoftmaxAttention
from zoo.nn.sparse_attention import BigBird, LocalAttention, Longformer, StridedAttention
from zoo.utils.errors import did_you_mean

Kind = str | dict[str, Any] | type[nn.Module]

CORES: dict[str, type[Core]] = {
    "softmax": SoftmaxAttention,
    "additive": AdditiveAttention,
    "local": LocalAttention,
    "strided": StridedAttention,
    "longformer": Longformer,
    "bigbird": BigBird,
    "linear": LinearAttention,
    "performer": Performer,
    "rfa": RandomFeatureAttention,
}
BUILT_IN = tuple(CORES)
MIXERS: dict[str, type[nn.Module]] = {}


def register_attention(name: str, cls: type[Core]) -> None:
    """Make `cls` known as `attention=name`, to `create_model` and to the configs of saved models."""
    if not (isinstance(cls, type) and issubclass(cls, Core)):
        raise ValueError(f"{cls!r} is not a subclass of zoo.nn.Core; what has no weights goes to register_mixer")
    _register(CORES, name, cls)


def register_mixer(name: str, cls: type[nn.Module]) -> None:
    """Make `cls` known as `mixer=name`."""
    _register(MIXERS, name, cls)


def _register(table: dict[str, Any], name: str, cls: type) -> None:
    known = table.get(name)
    # the same class of a file that was run again may replace itself; anything else is a clash
    if known is not None and (name in BUILT_IN or known.__qualname__ != cls.__qualname__):
        raise ValueError(f"{name!r} is taken by {known.__module__}.{known.__qualname__}; choose another name")
    table[name] = cls


def admit(kind: Any, table: dict[str, Any] | None = None) -> Any:
    """What a user wrote -> names for the config, registering classes and importing `file:Class` on the way."""
    table = CORES if table is None else table
    if isinstance(kind, list | tuple):
        return tuple(admit(k, table) for k in kind)
    if isinstance(kind, dict):
        return kind | {"kind": admit(kind.get("kind"), table)}
    if isinstance(kind, type):
        names = [name for name, cls in table.items() if cls is kind]
        name = names[0] if names else f"{home(kind)}:{kind.__qualname__}"
        if not names:
            (register_attention if table is CORES else register_mixer)(name, kind)
        return name
    if isinstance(kind, str) and ":" in kind and kind not in table:
        (register_attention if table is CORES else register_mixer)(kind, load_class(kind))
    return kind


def home(cls: type) -> str:
    """The module that a class can be imported from later: a script is called like its file, not `__main__`."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return Path(file).stem if cls.__module__ == "__main__" and file else cls.__module__


def load_class(path: str) -> type:
    """`"my_file:MyCore"` -> the class, from a module or from a file in the current folder."""
    module_name, _, class_name = path.rpartition(":")
    file = Path(module_name if module_name.endswith(".py") else module_name.replace(".", "/") + ".py")
    module = from_file(file) if file.exists() else importlib.import_module(module_name)
    if not hasattr(module, class_name):
        classes = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        raise ValueError(f"{module_name} has no class {class_name!r}{did_you_mean(class_name, classes)}")
    return getattr(module, class_name)


def from_file(file: Path) -> ModuleType:
    name = file.stem
    if (loaded := sys.modules.get(name)) and getattr(loaded, "__file__", None) == str(file.resolve()):
        return loaded
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def for_layer(kind: Any, layer: int, depth: int) -> Any:
    """The kind of one layer: `kind` itself, or its item where it is a list over the layers."""
    if not isinstance(kind, Sequence) or isinstance(kind, str):
        return kind
    if len(kind) != depth:
        raise ValueError(f"a list of attention kinds names one per layer: {len(kind)} given, the stack has {depth}")
    return kind[layer]


def resolve(kind: Any, table: dict[str, Any]) -> tuple[type, dict[str, Any]]:
    """A name, with or without options -> (class, options). Never imports anything."""
    options = dict(kind) if isinstance(kind, dict) else {"kind": kind}
    name = options.pop("kind", None)
    if not isinstance(name, str):
        raise ValueError(f"an attention is a name, a dict with 'kind' and options, or a class; given {kind!r}")
    if name in table:
        return table[name], options
    what = "attention" if table is CORES else "mixer"
    if ":" in name:
        module, _, cls = name.rpartition(":")
        module = Path(module).stem if module.endswith(".py") else module
        raise ValueError(
            f"this model uses {what}={name!r}, a class that is not registered here, and loading runs no code of its "
            f"own accord. Write, before loading: from {module} import {cls}; "
            f"zoo.register_{what}({name!r}, {cls})"
        )
    known = ", ".join(table) or "none so far"
    raise ValueError(
        f"no {what} {name!r}{did_you_mean(name, table)} (known: {known}; register your own with zoo.register_{what})"
    )


def build_core(kind: Any, spec: CoreSpec) -> Core:
    """The core of one layer. A wrong or impossible option raises with the options there are."""
    return construct(*resolve(kind, CORES), spec, kind)


def build_mixer(kind: Any, spec: Any) -> nn.Module:
    return construct(*resolve(kind, MIXERS), spec, kind)


def construct(cls: type, options: dict[str, Any], spec: Any, kind: Any) -> Any:
    known = list(inspect.signature(cls).parameters)[1:]
    for name in options.keys() - set(known):
        takes = ", ".join(known) or "none"
        raise ValueError(
            f"{kind!r}: {cls.__name__} has no option {name!r}{did_you_mean(name, known)}; it takes: {takes}"
        )
    if cls.__module__.split(".")[0] == "zoo":
        return cls(spec, **options)
    with initialized_by_itself():
        module = cls(spec, **options)
    for part in module.modules():
        part.foreign = True  # its torch parts too keep what its constructor gave them
    return module
