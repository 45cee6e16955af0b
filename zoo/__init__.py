"""A zoo of transformers for text, vision and audio over one attention core.

Everything public is here and imported when it is first used: `import zoo` brings no torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "create_model": "registry",
    "list_models": "registry",
    "Model": "models.base",
    "Config": "models.base",
    "register_attention": "nn.kinds",
    "register_mixer": "nn.kinds",
    "load": "loading",
    "save": "saving",
    "export": "saving",
    "push_to_hub": "saving",
    "verify": "verify",
    "predict": "predict",
    "capture": "capture",
    "rollout": "attention_maps",
    "draw": "draw",
    "generate": "generating",
    "optimize": "optimizing",
    "check": "check",
    "LoadError": "errors",
}
_PARTS = ("nn", "frontends", "heads", "models", "data", "tasks", "run")

__all__ = [*_WHERE, *_PARTS, "__version__"]

if TYPE_CHECKING:
    from .errors import LoadError as LoadError
    from .models.base import Config as Config
    from .models.base import Model as Model
    from .nn.kinds import register_attention as register_attention
    from .nn.kinds import register_mixer as register_mixer
    from .registry import create_model as create_model
    from .registry import list_models as list_models


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"zoo.{name}")
    if name in _WHERE:
        value = getattr(import_module(f"zoo.{_WHERE[name]}"), name)
        globals()[name] = value
        return value
    from .errors import did_you_mean

    raise AttributeError(f"module 'zoo' has no attribute {name!r}{did_you_mean(name, __all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """A function that is called like its file (zoo.capture, zoo.check) stays the function when that file is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _WHERE.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
