"""Heads of proteins: contacts between residues from attention maps (Rao et al. 2021), and pooling over residues."""

import torch
from torch import Tensor, nn

from zoo.nn.core import Core
from zoo.nn.heads import TextClassificationHead, TextPooling


def residues_of(keep: Tensor) -> Tensor:
    """bool [B, N], True for the real tokens of each row but the first and the last, which stand around a sequence.

    keep [B, N]: 1 or True for real tokens.
    """
    keep = keep.bool()
    count = keep.long().cumsum(1)
    return keep & (count > 1) & (count < count[:, -1:])


class ResiduePooling(TextPooling):
    """`TextPooling` whose "mean" is over the residues of a protein, without the tokens before and after them."""

    def pool(self, x: Tensor, keep: Tensor | None) -> Tensor:
        return super().pool(x, inner(x, keep) if self.mode == "mean" else keep)


class ResidueClassificationHead(ResiduePooling, TextClassificationHead):
    """`TextClassificationHead` whose "mean" is over the residues of a protein."""


def inner(x: Tensor, keep: Tensor | None) -> Tensor:
    """The residues [B, N] among the tokens x [B, N, D]; all tokens of a row that has none."""
    keep = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if keep is None else keep.bool()
    residues = residues_of(keep)
    return torch.where(residues.any(1, keepdim=True), residues, keep)


class ContactHead(nn.Module):
    """Contacts by logistic regression on the attention maps of all layers and heads (Rao et al. 2021, section 3).

    Each map, without the first and the last token of a row, is symmetrized, A + A^T, and corrected for the average
    product of its rows and columns (APC). `proj` has a weight for each head of each layer, in this order.
    """

    def __init__(self, depth: int, heads: int) -> None:
        super().__init__()
        self.depth, self.heads = depth, heads
        self.proj = nn.Linear(depth * heads, 1)

    def scores_of_layers(self, keep: Tensor | None) -> "ContactScores":
        """An empty sum for one forward; keep [B, N]: 1 or True for real tokens."""
        return ContactScores(self, keep)

    def weights_of(self, core: Core) -> Tensor:
        """The weights [H] of the heads of one layer, or of those that it still has."""
        weights = self.proj.weight.view(self.depth, self.heads)[core.spec.layer]
        return weights if core.spec.kept is None else weights[list(core.spec.kept)]

    def extra_repr(self) -> str:
        return f"depth={self.depth}, heads={self.heads}"


class ContactScores:
    """The logits of one forward, summed over layers as their maps come: one layer's maps are in memory at a time."""

    total: Tensor | None = None

    def __init__(self, head: ContactHead, keep: Tensor | None) -> None:
        self.head = head
        self.residues = None if keep is None else residues_of(keep)
        # the residues of each row first, wherever its padding is
        self.order = None if self.residues is None else (~self.residues).long().argsort(dim=1, stable=True)[:, :-2]

    def read(self, core: Core, maps: Tensor) -> None:
        """Add the maps [B, H, N, N] of one layer."""
        features = average_product_corrected(self.among_residues(maps))
        scores = torch.einsum("h,bhij->bij", self.head.weights_of(core).to(maps.dtype), features)
        self.total = scores if self.total is None else self.total + scores

    def among_residues(self, maps: Tensor) -> Tensor:
        """Symmetrized maps [B, H, N - 2, N - 2] of residues, zeros elsewhere."""
        if self.residues is None or self.order is None:
            maps = maps[..., 1:-1, 1:-1]
        else:
            pairs = self.residues[:, None, :, None] & self.residues[:, None, None, :]
            maps = maps.masked_fill(~pairs, 0.0)
            rows, heads, tokens = maps.shape[:3]
            size = self.order.shape[1]
            maps = maps.gather(2, self.order[:, None, :, None].expand(rows, heads, size, tokens))
            maps = maps.gather(3, self.order[:, None, None, :].expand(rows, heads, size, size))
        return maps + maps.mT

    def logits(self) -> Tensor:
        """[B, N - 2, N - 2]. Pairs with padding have the bias alone."""
        assert self.total is not None
        return self.total + self.head.proj.bias.to(self.total.dtype)


def average_product_corrected(x: Tensor) -> Tensor:
    """x [..., N, N] minus (sum of its row) (sum of its column) / (sum of all): what rows and columns explain alone
    (Dunn et al. 2008). A map of zeros stays zeros."""
    rows, columns, total = x.sum(-1, keepdim=True), x.sum(-2, keepdim=True), x.sum((-1, -2), keepdim=True)
    return x - rows * columns / torch.where(total == 0, 1.0, total)
