"""Vector attention among the neighbors of a point (Zhao et al. 2021, section 3.2, equation 3)."""

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.attention import Attention
from zoo.nn.context import Context
from zoo.nn.core import Core, CoreSpec, masked_softmax
from zoo.nn.graphs.neighbors import NeighborMask, take
from zoo.nn.kv_cache import LayerState
from zoo.nn.masks import AnyMask, as_mask
from zoo.nn.mlp import activation
from zoo.nn.position_biases import AnyBias


class PairMLP(nn.Module):
    """down(act(up(x))), of pairs of points: [..., F] -> [..., D]."""

    def __init__(self, in_features: int, hidden: int, width: int, act: str) -> None:
        super().__init__()
        self.act_name, self.act = act, activation(act)
        self.up, self.down = nn.Linear(in_features, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))

    def extra_repr(self) -> str:
        return f"act={self.act_name!r}"


class VectorAttention(Core):
    """A weight for each channel, as if each were a head: q, k, v [B, D, N, 1] -> [B, D, N, 1].

    y_i = sum over the neighbors j of i of softmax_j(weighting(q_i - k_j + delta_ij)) * (v_j + delta_ij), with
    delta_ij = position(p_i - p_j). The mask has a `NeighborMask`, with the neighbors and p_i - p_j; points without
    neighbors have zeros. Time and memory are O(N K D). As delta is added to the values, the output is not
    `weights @ v`.
    """

    def __init__(self, spec: CoreSpec, hidden: int, act: str) -> None:
        super().__init__(spec)
        self.position = PairMLP(3, hidden, spec.heads, act)
        self.weighting = PairMLP(spec.heads, hidden, spec.heads, act)

    def of_pairs(self, q: Tensor, k: Tensor, mask: AnyMask) -> tuple[Tensor, Tensor, NeighborMask]:
        """(weights [B, N, K, D], delta [B, N, K, D], the neighbors)."""
        neighbors = neighbors_of(mask)
        delta = self.position(neighbors.offsets.to(q.dtype))
        scores = self.weighting(channels(q)[:, :, None] - take(channels(k), neighbors.index) + delta)
        if neighbors.real is None:
            return scores.softmax(2), delta, neighbors
        scores = scores.masked_fill(~neighbors.real[..., None], -float("inf"))
        return masked_softmax(scores.mT).mT, delta, neighbors

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        weights, delta, neighbors = self.of_pairs(q, k, mask)
        y = (F.dropout(weights, self.dropout) * (take(channels(v), neighbors.index) + delta)).sum(2)
        return y.mT[..., None]

    def weights(self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        """[B, D, N, N], zeros at points that are not neighbors."""
        weights, _, neighbors = self.of_pairs(q, k, mask)
        return neighbors.scatter(weights.movedim(3, 1))

    def maps(self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        return self.weights(q, k, mask)


def channels(x: Tensor) -> Tensor:
    """[B, D, N, 1] -> [B, N, D]."""
    return x[..., 0].mT


def neighbors_of(mask: AnyMask) -> NeighborMask:
    """The neighbors in a mask. Raises ValueError for a mask without them."""
    found = next((part for part in as_mask(mask).parts() if isinstance(part, NeighborMask)), None)
    if found is None:
        raise ValueError(
            "vector attention is among neighbors: expected a mask with zoo.nn.graphs.neighbors.NeighborMask"
        )
    return found


class VectorAttentionLayer(Attention):
    """act(dense(x)), then vector attention, then the output projection: the mixer of a point transformer block."""

    packs = False
    masks_padding = True
    reads_bias = False
    divides_heads = False

    def __init__(self, width: int, spec: CoreSpec, *, hidden: int, act: str, bias: bool) -> None:
        super().__init__(width, spec, bias=bias, out_bias=True)
        self.core = VectorAttention(spec, hidden, act)
        self.dense, self.act = nn.Linear(width, width), activation(act)

    def forward(
        self, x: Tensor, context: Context, state: LayerState | None = None, memory: Tensor | None = None
    ) -> Tensor:
        """x [B, N, D] -> [B, N, D]."""
        return super().forward(self.act(self.dense(x)), context)
