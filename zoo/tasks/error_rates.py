"""Word and character error rates."""

from collections.abc import Sequence

# --- figures ----------------------------------------------------------------------------------------------------------


def error_rates(said: Sequence[str], true: Sequence[str]) -> dict[str, float]:
    """Word and character error rate of texts, through torchmetrics: {"wer": ..., "cer": ...}; 0 is without error."""
    from torchmetrics.text import CharErrorRate, WordErrorRate

    if len(said) != len(true) or not true:
        raise ValueError(f"{len(said)} texts said and {len(true)} true ones: expected as many of both, at least one")
    word, character = WordErrorRate(), CharErrorRate()
    return {"wer": float(word(list(said), list(true))), "cer": float(character(list(said), list(true)))}
