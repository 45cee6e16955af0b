"""From `key=value` on a command line to a finished run folder. Importing this brings no torch."""

from importlib import import_module
from typing import Any

_HOME = {
    "ImageSettings": "settings",
    "RunSettings": "settings",
    "SettingsError": "front",
    "parse": "front",
    "RunFolder": "folder",
    "open_run": "folder",
    "Run": "run",
    "Result": "run",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name from its file when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
