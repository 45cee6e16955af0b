"""Recipes: from `key=value` options on a command line to a finished run folder. Importing this loads no torch."""

from zoo.utils.lazy import lazy_attributes

_HOME = {
    "ImageSettings": "zoo.training.config",
    "RunSettings": "zoo.training.config",
    "SettingsError": "zoo.training.parse",
    "parse": "zoo.training.parse",
    "RunFolder": "zoo.training.run_dir",
    "open_run": "zoo.training.run_dir",
    "Run": "zoo.training.run",
    "Result": "zoo.training.result",
    "fit": "zoo.training.fit",
    "main": "zoo.training.main",
}
__all__ = sorted(_HOME)
__getattr__ = lazy_attributes(__name__, _HOME)
