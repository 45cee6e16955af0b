"""`zoo.pack`: short documents side by side in rows of one length, without seeing each other."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def pack(
    documents: Sequence[Any], length: int | None = None, *, preprocess: Any = None, pad_id: int | None = None
) -> dict[str, Tensor]:
    """{"input_ids", "document_ids"[, "token_type_ids"]}, each int64 [B, N], in which no document sees another.

    documents: token ids of each (lists, tensors [n]), or texts with `preprocess=model.preprocess`. length: N, default
    that of the longest document. They fill the rows in order; document_ids number them in each row, -1 at padding.

    A text model answers such a batch as it would answer each document alone: `model(**batch)` gives [B, N, ...] where
    it answers for each token, and one answer per document, in the order given, where it answers for a text. When
    training on next tokens, leave out the places where the document changes.
    """
    if isinstance(documents, str) or not len(documents):
        raise ValueError("expected a list of documents, at least one")
    rows = [_ids(document, place, preprocess) for place, document in enumerate(documents)]
    longest = max(len(ids) for ids, _ in rows)
    length = length or longest
    if longest > length:
        place = next(i for i, (ids, _) in enumerate(rows) if len(ids) > length)
        raise ValueError(f"document {place} has {len(rows[place][0])} tokens, more than length={length}: split it")
    batch: list[list[tuple[Tensor, Tensor]]] = []
    room = 0
    for ids, types in rows:
        if len(ids) > room:
            batch.append([])
            room = length
        batch[-1].append((ids, types))
        room -= len(ids)
    if pad_id is None:
        pad_id = (None if preprocess is None else preprocess.id("pad")) or 0
    numbered = [[torch.full_like(ids, number) for number, (ids, _) in enumerate(row)] for row in batch]
    packed = {
        "input_ids": _joined([[ids for ids, _ in row] for row in batch], length, pad_id),
        "document_ids": _joined(numbered, length, -1),
    }
    if getattr(preprocess, "types", False):
        packed["token_type_ids"] = _joined([[types for _, types in row] for row in batch], length, 0)
    return packed


def _ids(document: Any, place: int, preprocess: Any) -> tuple[Tensor, Tensor]:
    """(ids [n], their types [n]) of one document."""
    if isinstance(document, str | tuple) and preprocess is None:
        raise ValueError(f"document {place} is a text: give preprocess=model.preprocess, or token ids")
    if isinstance(document, str | tuple):
        one = preprocess(document)
        ids = one["input_ids"][0]
        return ids, one.get("token_type_ids", torch.zeros_like(ids)[None])[0]
    ids = torch.as_tensor(document)
    if ids.ndim != 1 or ids.is_floating_point() or not len(ids):
        raise ValueError(f"document {place} is {tuple(ids.shape)} of {ids.dtype}, expected token ids [n], at least one")
    return ids.long(), torch.zeros_like(ids, dtype=torch.long)


def _joined(rows: list[list[Tensor]], length: int, fill: int) -> Tensor:
    """[B, N]: the parts of each row one behind the other, and then `fill`."""
    full = torch.full((len(rows), length), fill)
    for row, parts in enumerate(rows):
        joined = torch.cat(parts)
        full[row, : len(joined)] = joined
    return full
