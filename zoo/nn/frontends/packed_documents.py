"""Several documents in one row: each is taken out to a row of its own, and its answers are put back."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PackedDocuments:
    """Where the documents of packed rows [B, N] lie: index [D, L] into B * N, keep [D, L] True at tokens."""

    shape: torch.Size
    index: Tensor
    keep: Tensor

    @classmethod
    def of(cls, ids: Tensor) -> "PackedDocuments":
        """ids [B, N] numbers the document of each token in its row, negative at padding. Row by row, then by number."""
        flat, rows = ids.flatten(), torch.arange(ids.numel(), device=ids.device) // ids.shape[1]
        place = (flat >= 0).nonzero()[:, 0]
        key = rows[place] * (ids.max() + 1) + flat[place]
        order = key.argsort(stable=True)
        lengths = torch.unique_consecutive(key[order], return_counts=True)[1]
        keep = torch.arange(int(lengths.max()) if len(lengths) else 0, device=ids.device) < lengths[:, None]
        index = torch.zeros(keep.shape, dtype=torch.long, device=ids.device)
        index[keep] = place[order]
        return cls(ids.shape, index, keep)

    def take(self, x: Tensor) -> Tensor:
        """[B, N, ...] -> [D, L, ...]; what stands at padding is arbitrary."""
        return x.flatten(0, 1)[self.index]

    def put(self, y: Tensor) -> Tensor:
        """[D, L, ...] -> [B, N, ...], zeros at padding."""
        full = y.new_zeros(self.shape.numel(), *y.shape[2:])
        return full.index_copy(0, self.index[self.keep], y[self.keep]).unflatten(0, self.shape)
