"""The scores of graph attention networks: GAT (Velickovic et al. 2018) and GATv2 (Brody et al. 2022), and softmax
attention with edge features (Shi et al. 2021).

Both are attention kinds like others: they go into any model, with any mask, and where the mask is a graph they compute
its edges alone.
"""

from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.core import CoreSpec, attention, masked_softmax
from zoo.nn.graphs.edges import Edges, PairSums, leaky_products
from zoo.nn.graphs.graph_core import EdgeFeatureCore
from zoo.nn.init import Initializer, normal_
from zoo.nn.masks import AnyMask
from zoo.nn.position_biases import AnyBias
from zoo.nn.sdpa import repeat_kv
from zoo.nn.softmax_attention import SoftmaxAttention

SLOPE = 0.2  # of LeakyReLU below zero, in both papers


@attention("gat")
class GATAttention(EdgeFeatureCore):
    """GAT: the score is LeakyReLU(target . q + source . k), with one vector `target` and `source` for each head.

    edges: whether there is a vector `edge` for edge features, whose product with `edge_keys` is added before LeakyReLU.
    In the paper q = k = v.
    """

    head_parameters = MappingProxyType({"source": "heads", "target": "heads", "edge": "heads"})

    def __init__(self, spec: CoreSpec, edges: bool = False) -> None:
        super().__init__(spec)
        self.source = nn.Parameter(torch.empty(spec.heads, spec.head_dim))
        self.target = nn.Parameter(torch.empty(spec.heads, spec.head_dim))
        self.edge = nn.Parameter(torch.empty(spec.heads, spec.head_dim)) if edges else None

    def initialize(self, generator_for: Initializer) -> None:
        for name, parameter in self.named_parameters():
            normal_(parameter, self.spec.head_dim**-0.5, generator_for(name))

    def weights(self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        ours = (q * self.target[:, None].to(q.dtype)).sum(-1)  # B H N
        theirs = (repeat_kv(k, q.shape[1]) * self.source[:, None].to(q.dtype)).sum(-1)
        scores = F.leaky_relu(ours[..., None] + theirs[..., None, :], SLOPE)
        return masked_softmax(self.hide(scores, mask, bias))

    def edge_scores(self, q: Tensor, k: Tensor, edges: Edges, edge_keys: Tensor | None = None) -> Tensor:
        rows = q.shape[0] // self.spec.heads
        ours = (q * self.target.to(q.dtype).repeat(rows, 1)[:, None]).sum(-1).T  # N R
        theirs = (k * self.source.to(q.dtype).repeat(rows, 1)[:, None]).sum(-1).T
        scores = PairSums.apply(ours, theirs, edges)
        if edge_keys is not None:
            if self.edge is None:
                raise ValueError("this core has no vector for edge features: attention={'kind': 'gat', 'edges': True}")
            scores = scores + (edge_keys * self.edge.to(q.dtype).repeat(rows, 1)).sum(-1)
        return F.leaky_relu(scores, SLOPE)


@attention("gatv2")
class GATv2Attention(EdgeFeatureCore):
    """GATv2: the score is a . LeakyReLU(q + k), with one vector `a` for each head; `edge_keys` are added to k.

    Unlike GAT's, the order of the keys can differ between queries.
    """

    head_parameters = MappingProxyType({"a": "heads"})

    def __init__(self, spec: CoreSpec) -> None:
        super().__init__(spec)
        self.a = nn.Parameter(torch.empty(spec.heads, spec.head_dim))

    def initialize(self, generator_for: Initializer) -> None:
        normal_(self.a, self.spec.head_dim**-0.5, generator_for("a"))

    def weights(self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        both = q.unsqueeze(3) + repeat_kv(k, q.shape[1]).unsqueeze(2)  # B H N M P
        scores = torch.einsum("bhnmp,hp->bhnm", F.leaky_relu(both, SLOPE), self.a.to(q.dtype))
        return masked_softmax(self.hide(scores, mask, bias))

    def edge_scores(self, q: Tensor, k: Tensor, edges: Edges, edge_keys: Tensor | None = None) -> Tensor:
        a = self.a.to(q.dtype).repeat(q.shape[0] // self.spec.heads, 1)
        if edge_keys is None:
            return leaky_products(q, k, a, edges, SLOPE)
        both = q.transpose(0, 1).index_select(0, edges.target) + k.transpose(0, 1).index_select(0, edges.source)
        return (F.leaky_relu(both + edge_keys, SLOPE) * a).sum(-1)


class SoftmaxEdgeAttention(EdgeFeatureCore, SoftmaxAttention):
    """Softmax attention whose keys, and values, differ between the edges of a node (Shi et al. 2021, equation 3)."""
