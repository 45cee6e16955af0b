"""Packed documents: several per row, moved to separate rows and back."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PackedDocuments:
    """Positions of the documents of packed rows [B, N]: index [D, L] into B * N, keep [D, L] True at tokens."""

    shape: torch.Size
    index: Tensor
    keep: Tensor

    @classmethod
    def of(cls, ids: Tensor) -> "PackedDocuments":
        """From ids [B, N], the document number of each token, negative at padding. Sorted by row, then by number."""
        flat, rows = ids.flatten(), torch.arange(ids.numel(), device=ids.device) // ids.shape[1]
        positions = (flat >= 0).nonzero()[:, 0]
        key = rows[positions] * (ids.max() + 1) + flat[positions]
        order = key.argsort(stable=True)
        lengths = torch.unique_consecutive(key[order], return_counts=True)[1]
        keep = torch.arange(int(lengths.max()) if len(lengths) else 0, device=ids.device) < lengths[:, None]
        index = torch.zeros(keep.shape, dtype=torch.long, device=ids.device)
        index[keep] = positions[order]
        return cls(ids.shape, index, keep)

    def take(self, x: Tensor) -> Tensor:
        """One row per document: [B, N, ...] -> [D, L, ...]; values at padding are arbitrary."""
        return x.flatten(0, 1)[self.index]

    def put(self, y: Tensor) -> Tensor:
        """Back to packed rows: [D, L, ...] -> [B, N, ...], zeros at padding."""
        full = y.new_zeros(self.shape.numel(), *y.shape[2:])
        return full.index_copy(0, self.index[self.keep], y[self.keep]).unflatten(0, self.shape)
