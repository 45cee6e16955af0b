"""Readers, whole-batch augmentation and keyed loaders: a batch is a pure function of (seed, step)."""

from importlib import import_module
from typing import Any

_HOME = {
    "AugmentSettings": "settings",
    "DataSettings": "settings",
    "TextDataSettings": "text_settings",
    "Augment": "augment",
    "Card": "cards",
    "load_card": "cards",
    "list_cards": "cards",
    "DataError": "decode",
    "ImageSet": "images",
    "ImageSets": "images",
    "load_images": "images",
    "draw_images": "embedded",
    "TextSet": "text",
    "TextSets": "text",
    "load_texts": "text",
    "compose_sentences": "sentences",
    "compose_stories": "stories",
    "ImageModule": "loader",
    "KeyedBatches": "loader",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name from its file when it is first asked for, so that settings never bring torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
