"""Lazy imports: public names of a package that are imported on first access."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from zoo.utils import renamed
from zoo.utils.errors import did_you_mean


def lazy_attributes(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Make a package's `__getattr__` (PEP 562). modules: public name -> the module that defines it."""

    def get(name: str) -> Any:
        if name in renamed.NAMES.get(package, {}):
            return renamed.public_name(package, name)
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}{did_you_mean(name, modules)}")
        return getattr(import_module(modules[name]), name)

    return get
