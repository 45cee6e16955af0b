"""Packages whose public names are imported from their files when they are first asked for."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from zoo.utils import renamed
from zoo.utils.errors import did_you_mean


def names_from(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562): `home` says in which module each public name stands."""

    def get(name: str) -> Any:
        if name in renamed.NAMES.get(package, {}):
            return renamed.public_name(package, name)
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}{did_you_mean(name, home)}")
        return getattr(import_module(home[name]), name)

    return get
