"""From `key=value` on a command line to a finished run folder. Importing this brings no torch."""

from zoo.lazy import names_from

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
__getattr__ = names_from(__name__, _HOME)
