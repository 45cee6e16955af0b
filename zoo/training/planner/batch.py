"""The batch of a step, in tokens, rows, images or clips."""

import re
from dataclasses import dataclass

from torch import Tensor

from zoo.inference.cost import empty_batch
from zoo.models.base import Model

LONGEST = 4096  # tokens of a row, unless they are given
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
NAMES = {"tokens": "tokens", "rows": "rows", "images": "rows", "clips": "rows", "": "rows"}


@dataclass(frozen=True)
class Batch:
    """rows of a step; tokens of each row of a text, or None; their name in tables."""

    rows: int
    tokens: int | None
    name: str = "rows"

    def inputs(self, model: Model, rows: int) -> dict[str, Tensor]:
        """Some rows, without values."""
        return empty_batch(model, rows, self.tokens)


def read_batch(text: str | int, model: Model, length: int | None = None) -> Batch:
    """A batch such as `4M-tokens`, `512-rows`, `8k-images` or `512`; K, M and G are powers of 1,024.

    Args:
        text: The batch.
        model: The model, whose texts have at most `max_length` tokens.
        length: Tokens of each row of a text.

    Raises: ValueError for another form, for tokens that are not whole rows, and for what the model does not take.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)(?:[- ]?([a-z]+))?", str(text).strip().lower())
    name = match[3] or "" if match else ""
    if match is None or name not in NAMES:
        raise ValueError(f"batch={text!r}: expected a number of tokens or rows, such as 4M-tokens, 512-rows, 8k-images "
                         "or 256-clips")  # fmt: skip
    number = float(match[1]) * UNITS[match[2]]
    if number < 1 or number != int(number):
        raise ValueError(f"batch={text!r}: expected a whole number of at least 1")
    takes_text = "input_ids" in model.inputs or "decoder_input_ids" in model.inputs
    if not takes_text:
        if name == "tokens" or length is not None:
            raise ValueError(f"{type(model).__name__} takes {', '.join(model.inputs)} and no text: give the batch in "
                             "rows, such as 1024-images or 1024-clips, and no length")  # fmt: skip
        return Batch(int(number), None, name or "rows")
    limit = getattr(model.config.part_of("input_ids"), "max_length", LONGEST)
    tokens = min(LONGEST, limit) if length is None else length
    if not 1 <= tokens <= limit:
        raise ValueError(f"length={tokens}: {type(model).__name__} takes 1 to {limit} tokens (max_length)")
    rows = int(number)
    if name == "tokens":
        if rows % tokens:
            lower = rows // tokens
            choices = " or ".join(f"{n * tokens}-tokens" for n in (lower, lower + 1) if n)
            raise ValueError(f"batch={text!r} is not a whole number of rows of {tokens} tokens: choose {choices}, or "
                             "another length")  # fmt: skip
        rows //= tokens
    return Batch(rows, tokens, name or "rows")
