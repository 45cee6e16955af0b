"""`zoo.pack`: packs several short documents into each row; attention stays within documents."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def pack(
    documents: Sequence[Any],
    length: int | None = None,
    *,
    preprocess: Any = None,
    pad_id: int | None = None,
    return_lengths: bool = False,
) -> dict[str, Any]:
    """Pack documents into rows: {"input_ids", "document_ids"[, "token_type_ids"]}, each int64 [B, N].

    documents: token ids (lists or tensors [n]), or texts with `preprocess=model.preprocess`; they fill the rows in
    order. length: N; default is the length of the longest document. pad_id: the padding token. document_ids number the
    documents of each row and are -1 at padding. return_lengths: add `lengths`, a list of the number of tokens of each
    document, with which a model on a GPU need not wait for document_ids.

    No document attends to another, so a text model returns the same outputs as for each document alone: [B, N, ...]
    from heads with one output per token, or one row per document, in the given order, from heads with one output per
    text. The tasks of language modeling predict no token from another document.
    """
    if isinstance(documents, str) or not len(documents):
        raise ValueError("expected a list of documents with at least one of them")
    rows = [_ids(document, index, preprocess) for index, document in enumerate(documents)]
    longest = max(len(ids) for ids, _ in rows)
    length = length or longest
    if longest > length:
        index = next(i for i, (ids, _) in enumerate(rows) if len(ids) > length)
        count = len(rows[index][0])
        raise ValueError(f"document {index} has {count} tokens, more than length={length}: split it or increase length")
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
    packed: dict[str, Any] = {
        "input_ids": _joined([[ids for ids, _ in row] for row in batch], length, pad_id),
        "document_ids": _joined(numbered, length, -1),
    }
    if getattr(preprocess, "types", False):
        packed["token_type_ids"] = _joined([[types for _, types in row] for row in batch], length, 0)
    if return_lengths:
        packed["lengths"] = [len(ids) for ids, _ in rows]
    return packed


def _ids(document: Any, index: int, preprocess: Any) -> tuple[Tensor, Tensor]:
    """(token ids [n], token types [n]) of one document."""
    if isinstance(document, str | tuple) and preprocess is None:
        raise ValueError(f"document {index} is a text: pass preprocess=model.preprocess, or token ids")
    if isinstance(document, str | tuple):
        encoded = preprocess(document)
        ids = encoded["input_ids"][0]
        return ids, encoded.get("token_type_ids", torch.zeros_like(ids)[None])[0]
    ids = torch.as_tensor(document)
    if ids.ndim != 1 or ids.is_floating_point() or not len(ids):
        raise ValueError(
            f"document {index} is of shape {tuple(ids.shape)} and dtype {ids.dtype}, expected integer token ids [n], "
            f"at least one"
        )
    return ids.long(), torch.zeros_like(ids, dtype=torch.long)


def _joined(rows: list[list[Tensor]], length: int, fill: int) -> Tensor:
    """[B, N]: the concatenated parts of each row, padded with `fill`."""
    full = torch.full((len(rows), length), fill)
    for row, parts in enumerate(rows):
        joined = torch.cat(parts)
        full[row, : len(joined)] = joined
    return full
