"""Softmax attention (Vaswani et al. 2017) and additive attention (Bahdanau et al. 2014)."""

from types import MappingProxyType

import torch
from torch import Tensor, nn

from zoo.nn.core import Core, CoreSpec, attention, masked_softmax
from zoo.nn.graphs.edges import Edges
from zoo.nn.graphs.graph_core import EdgeCore
from zoo.nn.graphs.graph_mask import GraphMask
from zoo.nn.init import Initializer, normal_
from zoo.nn.masks import AnyMask, MaskView, as_mask
from zoo.nn.position_biases import AnyBias
from zoo.nn.sdpa import attend, repeat_kv


@attention("softmax")
class SoftmaxAttention(EdgeCore):
    """softmax(q k^T * scale + bias) v (Vaswani et al. 2017), by fused kernels where they are faster."""

    caps_scores = True

    def weights(self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        return masked_softmax(self.scores(q, k, as_mask(mask) & self.pattern, bias))

    def maps(self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        return self.weights(q, k, mask, bias)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        if type(mask.inner if type(mask) is MaskView else mask) is GraphMask:
            graph = self.sparse_graph(mask, q, k)
            if graph is not None:
                return self.attend_edges(q, k, v, graph, bias)
        dropout = self.spec.dropout if self.training else 0.0
        return attend(q, k, v, mask, bias, self.scale, dropout, self.pattern, self.spec.softcap)

    def edge_scores(self, q: Tensor, k: Tensor, edges: Edges, edge_keys: Tensor | None = None) -> Tensor:
        return self.edge_products(q, k, edges, edge_keys)


@attention("additive")
class AdditiveAttention(Core):
    """Bahdanau et al. 2015: the score is w . tanh(q + k), one w per head, after the usual projections of q and k."""

    head_parameters = MappingProxyType({"w": "heads"})

    def __init__(self, spec: CoreSpec) -> None:
        super().__init__(spec)
        self.w = nn.Parameter(torch.empty(spec.heads, spec.head_dim))

    def initialize(self, generator_for: Initializer) -> None:
        normal_(self.w, self.spec.head_dim**-0.5, generator_for("w"))

    def weights(self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        both = q.unsqueeze(3) + repeat_kv(k, q.shape[1]).unsqueeze(2)  # B H N M P
        scores = torch.einsum("bhnmp,hp->bhnm", both.tanh(), self.w.to(q.dtype))
        return masked_softmax(self.hide(scores, mask, bias))
