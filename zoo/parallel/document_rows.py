"""Packed documents that stay where they are in their rows, in the masks and positions of each by itself.

In one process each document becomes a row of its own, see `PackedDocuments`; rows that are divided between processes,
or follow each other through a pipeline, keep their shape.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from zoo.nn.context import Context
from zoo.nn.frontends.packed_documents import PackedDocuments
from zoo.nn.index_functions import Index
from zoo.nn.masks import NO_MASK, And, DocumentMask, Mask, MaskView, as_mask
from zoo.nn.position_biases import BiasView


@dataclass(frozen=True, eq=False)
class SequenceMask(MaskView):
    """The mask of one forward pass over sequences of `tokens` tokens, of which the queries of a core may be a part.

    documents: of packed rows, the document of each query [B, n] and of each key [B, N]; tokens attend within theirs.
    """

    tokens: int = 0
    documents: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        allowed = super().__call__(b, h, q, k)
        if self.documents is None:
            return allowed
        queries, keys = self.documents
        return allowed & (queries[b, q] == keys[b, k])

    @property
    def batch(self) -> int:  # type: ignore[override]
        return super().batch if self.documents is None else max(super().batch, self.documents[0].shape[0])

    def parts(self) -> tuple[Mask, ...]:
        return super().parts() + (() if self.documents is None else (DocumentMask(self.documents[1]),))

    def on_device(self, keys: int, device: Any) -> Mask:
        inner: Mask = super().on_device(keys, device)
        return inner if self.documents is None else And(inner, SameDocument(*self.documents))


@dataclass(frozen=True, eq=False)
class SameDocument(Mask):
    """True where query and key are of one document: queries [B, n] and keys [B, N] are the documents of each."""

    queries: Tensor = field(repr=False)
    keys: Tensor = field(repr=False)

    @property
    def batch(self) -> int:  # type: ignore[override]
        return self.queries.shape[0]

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.queries[b, q] == self.keys[b, k]


@dataclass(frozen=True, eq=False)
class DocumentRows:
    """Rows [B, N] of packed documents.

    numbers: of each token, its document, -1 at padding. positions: of each token, its position in its document. keep:
    True at the tokens of documents.
    """

    numbers: Tensor
    positions: Tensor
    keep: Tensor

    @classmethod
    def of(cls, documents: PackedDocuments) -> "DocumentRows":
        longest, shape = documents.index.shape[1], documents.shape
        numbers = torch.full((shape.numel(),), -1, device=documents.source.device)
        numbers[documents.source] = documents.place // longest
        positions = torch.zeros_like(numbers)
        positions[documents.source] = documents.place % longest
        return cls(numbers.view(shape), positions.view(shape), (numbers >= 0).view(shape))

    def context(self, context: Context, *, cache_biases: bool = True) -> Context:
        """`Context.for_forward` for the tokens of documents, whose masks and biases compare positions within them."""
        inner = NO_MASK if context.mask is None else as_mask(context.mask)
        bias = context.bias
        if bias is not None:
            bias = BiasView(bias, self.positions, self.positions, {} if cache_biases else None)
        mask = SequenceMask(inner, self.positions, self.positions, self.keep, documents=(self.numbers, self.numbers))
        return replace(context, mask=mask, bias=bias)


def document_rows(model: Any, documents: PackedDocuments) -> tuple[DocumentRows, Context]:
    """(The rows of packed documents, their context) of a text model. Raises ValueError for too long a document."""
    if model.tokens.max_length and documents.index.shape[1] > model.tokens.max_length:
        raise model.tokens.length_error(documents.index.shape[1])
    rows = DocumentRows.of(documents)
    return rows, rows.context(model.context(rows.positions), cache_biases=not model.blocks.checkpointing)


def embed_each(
    model: Any, ids: Tensor, positions: Tensor, types: Tensor | None = None, words: Tensor | None = None
) -> Tensor:
    """The embeddings [B, N, D] of ids [B, N] by a text model, as of texts of one token: rows of packed documents may be
    longer than the model's longest text."""
    each = [None if x is None else x.reshape(-1, 1, *x.shape[2:]) for x in (ids, positions, types, words)]
    x: Tensor = model.embed(*each)
    return x.view(*ids.shape, -1)
