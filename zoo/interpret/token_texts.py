"""What tokens are called in tables, plots and pages."""

from collections.abc import Sequence
from typing import Any


def token_texts(processor: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Each token as a text; one that is a part of a character by its name in the vocabulary."""
    texts = []
    for number in ids:
        text = processor.decode([number], skip_special=False)
        name = processor.backend.id_to_token(number) if hasattr(processor.backend, "id_to_token") else None
        if name is not None and (name.startswith("##") or not text or "\ufffd" in text):
            text = name
        texts.append(text)
    return tuple(texts)
