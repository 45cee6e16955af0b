"""Roles of heads in texts that are defined by tokens: their positions, their kind, how often they occur."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.interpret.roles.batches import PositionBins, RoleBatch, Target, line_offsets, split_rows
from zoo.interpret.roles.token_rows import Frame, TokenRow, flags, text_inputs

WINDOW = 32  # tokens of a text for the roles of positions, without special ones
MAX_WINDOWS, MIN_WINDOWS = 64, 8
REPEATED = 24  # random tokens that are repeated
SEQUENCES = 32


def token_targets(rows: Sequence[TokenRow], length: int, counts: Counter[int]) -> dict[str, Target]:
    """The targets of a batch of texts, padded to `length` tokens.

    Queries are the tokens that are not special. counts: how often each token occurs in all texts.
    """
    real = flags([[True] * len(row) for row in rows], length)
    special = flags([row.special for row in rows], length)
    queries = real & ~special
    line = torch.arange(length)
    offset = line[None] - line[:, None]  # from query to key
    first = (line == 0) & (line[:, None] != 0)
    found = {
        "previous": Target((offset == -1)[None], queries & (line > 0)),
        "next": Target((offset == 1)[None], queries & real.roll(-1, 1) & (line < length - 1)),
        "same": Target((offset == 0)[None], queries),
        "first": Target(first[None], queries & (line > 0)),
    }
    separator = special & (line > 0)
    if bool(separator.any()):
        found["separator"] = Target(separator[:, None], queries & separator.any(1, keepdim=True))
    if all(row.spans is not None for row in rows):
        marks = flags([row.is_punctuation() for row in rows], length)
        found["punctuation"] = Target(marks[:, None], queries & ~marks & marks.any(1, keepdim=True))
    rare = flags([rarest(row, counts) for row in rows], length)
    found["rare"] = Target(rare[:, None], queries & ~rare & rare.any(1, keepdim=True))
    return found


def rarest(row: TokenRow, counts: Counter[int]) -> list[bool]:
    """Whether each token of a text is one of its rarest, those that occur least often in all texts; none if all
    tokens are equally rare."""
    numbers = [counts[i] for i, special in zip(row.ids, row.special, strict=True) if not special]
    least = min(numbers, default=0)
    if least == max(numbers, default=0):
        return [False] * len(row)
    return [not special and counts[i] == least for i, special in zip(row.ids, row.special, strict=True)]


def text_batches(rows: Sequence[TokenRow], processor: Any) -> Iterator[RoleBatch]:
    """Batches of texts for the first layers of text models: an encoder, or a decoder alone."""
    counts = count_tokens(rows)
    for indices in split_rows([len(row) for row in rows]):
        chosen = [rows[i] for i in indices]
        inputs = text_inputs(chosen, processor)
        yield RoleBatch(inputs, {"encoder": token_targets(chosen, inputs["input_ids"].shape[1], counts)})


def count_tokens(rows: Sequence[TokenRow]) -> Counter[int]:
    """How often each token that is not special occurs."""
    return Counter(i for row in rows for i, special in zip(row.ids, row.special, strict=True) if not special)


def window_batches(rows: Sequence[TokenRow], frame: Frame, processor: Any) -> Iterator[RoleBatch] | str:
    """Batches of windows of equal length over all tokens of the texts, for the roles of positions.

    Returns a text that says why there are none.
    """
    tokens = [i for row in rows for i, special in zip(row.ids, row.special, strict=True) if not special]
    length = min(WINDOW, frame.room)
    count = min(MAX_WINDOWS, len(tokens) // max(length, 1))
    if length < 4 or count < MIN_WINDOWS:
        return (
            f"the texts have {len(tokens)} tokens: expected at least {MIN_WINDOWS * max(length, 4)}, for {MIN_WINDOWS} "
            f"windows of {max(length, 4)} tokens"
        )
    windows = [frame.row(tokens[i * length : (i + 1) * length]) for i in range(count)]
    return (
        position_batch([windows[i] for i in indices], processor) for indices in split_rows([len(windows[0])] * count)
    )


def position_batch(rows: Sequence[TokenRow], processor: Any) -> RoleBatch:
    """A batch of rows of equal length for the roles of positions."""
    inputs = text_inputs(rows, processor)
    length = inputs["input_ids"].shape[1]
    queries = flags([[not special for special in rows[0].special]], length)[0]
    return RoleBatch(inputs, positions={"encoder": PositionBins(line_offsets(length), queries)})


def repeated_batches(frame: Frame, processor: Any, seed: int) -> Iterator[RoleBatch] | str:
    """Batches of random tokens that are repeated once, for the roles of induction and of duplicates.

    Returns a text that says why there are none.
    """
    length = min(REPEATED, frame.room // 2, len(frame.ordinary))
    if length < 4:
        return (
            f"the model has {len(frame.ordinary)} ordinary tokens and texts of at most {frame.room}: expected at least "
            f"4 and 8, to repeat random tokens"
        )
    generator = torch.Generator().manual_seed(seed)
    ordinary = torch.tensor(frame.ordinary)
    rows = []
    for _ in range(SEQUENCES):
        once = ordinary[torch.randperm(len(ordinary), generator=generator)[:length]].tolist()
        rows.append(frame.row([*once, *once]))
    inputs, before = text_inputs(rows, processor), len(frame.before)
    targets = repeated_targets(inputs["input_ids"].shape[1], length, before)
    return iter([RoleBatch(inputs, {"encoder": targets})])


def repeated_targets(tokens: int, length: int, before: int) -> dict[str, Target]:
    """The targets of rows of `before` special tokens, `length` random tokens and the same again. Queries are the
    repeated tokens: a duplicate is where the token was before, induction looks at the token that followed there."""
    line = torch.arange(tokens)
    queries = (line >= before + length) & (line < before + 2 * length)
    offset: Tensor = line[:, None] - line[None]  # how far before the query the key is
    return {
        "induction": Target((offset == length - 1)[None], queries[None]),
        "duplicate": Target((offset == length)[None], queries[None]),
    }
