"""A zoo of transformers for text, vision and audio over one attention core.

Everything public is here and imported when it is first used: `import zoo` brings no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# A file is never called like its function: importing zoo.loading must not turn zoo.load into a module.
_WHERE = {
    "create_model": "registry",
    "list_models": "registry",
    "Model": "models.base",
    "Config": "models.base",
    "register_attention": "nn.kinds",
    "register_mixer": "nn.kinds",
    "contrast": "contrasting",
    "load": "loading",
    "save": "saving",
    "export": "saving",
    "push_to_hub": "saving",
    "verify": "verifying",
    "predict": "predicting",
    "embed": "embedding",
    "Embeddings": "vector_files",
    "search": "searching",
    "zero_shot": "prompting",
    "capture": "capturing",
    "rollout": "attention_maps",
    "draw": "drawing",
    "generate": "generating",
    "pack": "packing",
    "optimize": "optimizing",
    "check": "checking",
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
