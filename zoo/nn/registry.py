"""Registry of attention kinds and mixers, built-in and custom.

An attention kind is a name (`"performer"`), a name with options (`{"kind": "local", "window": 9}`), a `Core` class,
`"my_file:MyCore"`, or a list of these over the layers, repeated until the last. Mixers are named in the same ways.
Configs store names only. Files are imported by `register_custom` alone, which handles what users pass in code or on a
command line; loading a saved config imports nothing.
"""

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from zoo.nn.core import CORES, Core, CoreSpec
from zoo.nn.init import allow_init
from zoo.nn.mixers.base import MIXERS
from zoo.utils.class_import import importable_name, load_class
from zoo.utils.errors import did_you_mean
from zoo.utils.type_checks import check_type

# Files of this folder that are called `*_attention.py` and those in `mixers/` register their kinds when they are
# imported; the usual kinds first.
_FILES = ["softmax_attention", "sparse_attention", "linear_attention"]
_FILES += sorted({file.stem for file in Path(__file__).parent.glob("*_attention.py")} - {*_FILES})
_FILES += sorted(f"mixers.{file.stem}" for file in Path(__file__).parent.glob("mixers/*.py"))
for _file in _FILES:
    importlib.import_module(f"zoo.nn.{_file}")
BUILT_IN, BUILT_IN_MIXERS = tuple(CORES), tuple(MIXERS)
ATTENTION = "attention"  # in a list of mixers, a layer that keeps its attention

# Names of fused softmax kernels in other libraries; "softmax" uses such kernels by itself.
FUSED = (
    "flash", "flash_attention", "flash_attention_2", "flash_attention_3", "flash_attn", "sdpa", "eager", "xformers",
    "fused", "mem_efficient", "memory_efficient", "cudnn", "flex", "flex_attention",
)  # fmt: skip
# Names of attention kinds in papers and other libraries -> ours.
ALIASES = {
    "full": "softmax", "dense": "softmax", "vanilla": "softmax", "mha": "softmax", "multihead": "softmax",
    "multi_head": "softmax", "standard": "softmax", "dot_product": "softmax", "scaled_dot_product": "softmax",
    "sliding_window": "local", "swa": "local", "window": "local", "favor": "performer", "favor+": "performer",
    "bahdanau": "additive", "random_feature": "rfa", "random_features": "rfa",
}  # fmt: skip
# Kinds that exist elsewhere, whose names look like a typo of one of ours.
UNSUPPORTED = ("linformer", "reformer", "nystromformer", "cosformer")


def register_attention(name: str, cls: type[Core]) -> None:
    """Register `cls` under `attention=name`, for `create_model` and for loading saved models."""
    if not (isinstance(cls, type) and issubclass(cls, Core)):
        raise ValueError(
            f"{cls!r} is not a subclass of zoo.nn.Core; for modules without attention weights use register_mixer"
        )
    _register(CORES, name, cls)


def register_mixer(name: str, cls: type[nn.Module]) -> None:
    """Register `cls` under `mixer=name`, for `create_model` and for loading saved models."""
    _register(MIXERS, name, cls)


def _register(table: dict[str, Any], name: str, cls: type) -> None:
    known = table.get(name)
    # a class may be registered again, as when its file is run twice; another class may not take its name
    built_in = BUILT_IN if table is CORES else (*BUILT_IN_MIXERS, ATTENTION)
    if known is not None and (name in built_in or known.__qualname__ != cls.__qualname__):
        raise ValueError(
            f"{name!r} is already registered for {known.__module__}.{known.__qualname__}; choose another name"
        )
    table[name] = cls


def register_custom(kind: Any, table: dict[str, Any] | None = None) -> Any:
    """Convert a kind to names for the config: registers classes, and imports and registers `file:Class`."""
    table = CORES if table is None else table
    if isinstance(kind, list | tuple):
        return tuple(register_custom(k, table) for k in kind)
    if isinstance(kind, dict) and "kind" in kind:
        return kind | {"kind": register_custom(kind["kind"], table)}
    if isinstance(kind, type):
        names = [name for name, cls in table.items() if cls is kind]
        name, cls = names[0] if names else f"{importable_name(kind)}:{kind.__qualname__}", kind
    elif isinstance(kind, str) and ":" in kind and kind not in table:
        name, cls = kind, load_class(kind)
    else:
        return kind
    if table.get(name) is not cls:
        (register_attention if table is CORES else register_mixer)(name, cls)
    return name


def for_layer(kind: Any, layer: int, depth: int) -> Any:
    """The kind of one layer: `kind` itself, or its entry if it is a list, which repeats over the depth."""
    if not isinstance(kind, Sequence) or isinstance(kind, str):
        return kind
    if not kind or depth % len(kind):
        raise ValueError(
            f"a list of kinds has one for each layer, or repeats over the layers: got {len(kind)} kinds for {depth} "
            f"layers; give {depth}, or a number that divides {depth}"
        )
    return kind[layer % len(kind)]


def resolve(kind: Any, table: dict[str, Any]) -> tuple[type, dict[str, Any]]:
    """(class, options) of a name with or without options. Imports nothing; raises ValueError for unknown names."""
    options = dict(kind) if isinstance(kind, dict) else {"kind": kind}
    name = options.pop("kind", None)
    what = "attention" if table is CORES else "mixer"
    if not isinstance(name, str):
        raise ValueError(f"{what}: expected a name, a class, or a dict with 'kind' and options, got {kind!r}")
    if name in table:
        return table[name], options
    if ":" in name:
        module, _, cls = name.rpartition(":")
        module = Path(module).stem if module.endswith(".py") else module
        raise ValueError(
            f"this model uses the custom class {what}={name!r}, which is not registered; loading a model runs no code. "
            f"Register it before loading: from {module} import {cls}; zoo.register_{what}({name!r}, {cls})"
        )
    if table is CORES and name.lower().replace("-", "_") in FUSED:
        raise ValueError(
            f'attention={name!r} is not an attention kind: attention="softmax" already uses fused kernels (flash, '
            'memory-efficient) where they apply, so omit attention= or write attention="softmax"'
        )
    if table is CORES and name in MIXERS:
        raise ValueError(f"{name!r} is a mixer: write mixer={name!r} instead of attention={name!r}")
    if table is MIXERS and name in CORES:
        raise ValueError(f"{name!r} is an attention kind: write attention={name!r} instead of mixer={name!r}")
    if table is MIXERS and name == ATTENTION:
        raise ValueError(
            "in a list of mixers 'attention' keeps the attention of a layer: write the name alone, and the kind with "
            "its options in attention="
        )
    known = ", ".join(table) or "none"
    raise ValueError(
        f"unknown {what} {name!r}{suggestion(name, table)} (known: {known}; register your own with zoo.register_{what})"
    )


def suggestion(name: str, table: dict[str, Any]) -> str:
    """A hint for an unknown kind: our name for another library's, or a name with a typo."""
    word = name.lower().replace("-", "_").replace(" ", "_").removesuffix("_attention")
    if table is not CORES or name in UNSUPPORTED:
        return "" if name in UNSUPPORTED else did_you_mean(name, [*table, ATTENTION])
    return did_you_mean(word, table, ALIASES, cutoff=0.75)


def build_core(kind: Any, spec: CoreSpec) -> Core:
    """Build the core of one layer. Raises ValueError for unknown kinds, options and values."""
    return construct(*resolve(kind, CORES), spec, kind)


def build_mixer(kind: Any, spec: Any) -> nn.Module:
    """Build the mixer of one layer. Raises ValueError for unknown names and options."""
    return construct(*resolve(kind, MIXERS), spec, kind)


def construct(cls: type, options: dict[str, Any], spec: Any, kind: Any) -> Any:
    """Build `cls(spec, **options)`; a custom class initializes its parameters itself."""
    parameters = inspect.signature(cls).parameters
    known = list(parameters)[1:]
    for name in options.keys() - set(known):
        options_list = ", ".join(known) or "none"
        raise ValueError(
            f"{kind!r}: {cls.__name__} has no option {name!r}{did_you_mean(name, known)}; known options: {options_list}"
        )
    if cls.__module__.split(".")[0] == "zoo":
        for name, value in options.items():
            check_type(f"{kind!r}: {name}", value, parameters[name].annotation)
        return cls(spec, **options)
    with allow_init():
        module = cls(spec, **options)
    for part in module.modules():
        part.foreign = True  # its torch submodules keep the values of its constructor, too
    return module
