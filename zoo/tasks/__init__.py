"""LightningModules, one per objective, and what they share. Importing this brings neither torch nor lightning."""

from importlib import import_module
from typing import Any

_HOME = {
    "Task": "base",
    "Classify": "classify",
    "NextToken": "language",
    "MaskedToken": "language",
    "balanced": "objectives",
    "add_lora": "lora",
    "merge_lora": "lora",
    "NonFiniteLoss": "guard",
    "warmup_cosine": "schedule",
    "adamw": "optim",
    "freeze": "optim",
    "param_groups": "optim",
    "shard": "sharding",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name from its file when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
