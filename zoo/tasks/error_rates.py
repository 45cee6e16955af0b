"""Word and character error rates."""

from collections.abc import Sequence


def error_rates(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Word and character error rate, computed with torchmetrics: {"wer": ..., "cer": ...}; 0 is perfect.

    Raises: ValueError if the numbers of texts differ, or there are none.
    """
    from torchmetrics.text import CharErrorRate, WordErrorRate

    if len(predictions) != len(references) or not references:
        raise ValueError(
            f"{len(predictions)} predictions and {len(references)} references: expected the same number of both, "
            f"at least one"
        )
    word, character = WordErrorRate(), CharErrorRate()
    predictions, references = list(predictions), list(references)
    return {"wer": float(word(predictions, references)), "cer": float(character(predictions, references))}
