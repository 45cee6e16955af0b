"""Attention over the edges of a graph: scores, softmax and sums per edge, in time and memory O(E).

Values of edges are [E, R], one column for each row and head; values of nodes are [R, N, P]. Edges are sorted by their
target, so that what a node attends to is a slice. For a large graph no function makes a tensor of all edges and
channels, E x P for each head: products of sparse and dense matrices read the channels of the nodes where they are, and
what they cannot compute (the scores of GATv2) is computed for as many edges at a time as fit the cache of a CPU, once
more in the backward pass. For a small graph such a tensor takes one call for all heads instead of one for each.
Gradients are of the first order only.
"""

import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.nn.exporting import is_exporting

CHUNK, CHUNK_GPU = 1 << 18, 1 << 27  # numbers in the temporaries of scores that are computed for some edges at a time
SMALL = 1 << 21  # numbers of all edges and channels, up to which a tensor of them is made


class Edges:
    """The edges of a graph of `nodes`, sorted by their targets: source and target [E]."""

    def __init__(self, source: Tensor, target: Tensor, nodes: int) -> None:
        self.source, self.target, self.nodes = source, target, nodes

    @cached_property
    def starts(self) -> Tensor:
        """Where the edges of each target begin [nodes + 1]."""
        return torch.searchsorted(self.target, torch.arange(self.nodes + 1, device=self.target.device))

    def __len__(self) -> int:
        return self.source.shape[0]

    @cached_property
    def numbers(self) -> Tensor:
        """0 to E - 1."""
        return torch.arange(len(self), device=self.source.device)

    @cached_property
    def by_source(self) -> tuple[Tensor, "Edges"]:
        """(the order of the edges by source, the edges from target to source in this order)."""
        source, order = torch.sort(self.source, stable=True)
        return order, Edges(self.target.index_select(0, order), source, self.nodes)

    def pattern(self, like: Tensor) -> Tensor:
        """A sparse matrix [N, N] in the layout CSR, with zeros at the edges."""
        zeros = like.new_zeros(len(self))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that the layout is new
            return torch.sparse_csr_tensor(
                self.starts, self.source, zeros, (self.nodes, self.nodes), check_invariants=False
            )

    def runs(self, entries: int) -> Iterator[tuple[slice, slice]]:
        """(targets, their edges) of consecutive runs of about `entries` edges, at least one target."""
        bounds = torch.arange(0, len(self) + entries, entries, device=self.starts.device).clamp(max=len(self))
        nodes = torch.searchsorted(self.starts, bounds).clamp(max=self.nodes)
        nodes[0], nodes[-1] = 0, self.nodes
        nodes = torch.unique(nodes)
        places = self.starts[nodes].tolist()
        cuts = nodes.tolist()
        for i in range(len(cuts) - 1):
            yield slice(cuts[i], cuts[i + 1]), slice(places[i], places[i + 1])


# --- sums over the edges of a node -----------------------------------------------------------------------------------


def bag(index: Tensor, rows: Tensor, starts: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sums of rows[index] [E, P], times weights [E], over the slices that begin at `starts` -> [N, P]."""
    if not len(index):
        return rows.new_zeros(len(starts) - 1, rows.shape[1])
    return F.embedding_bag(index, rows, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)


def sum_of_edges(values: Tensor, edges: Edges) -> Tensor:
    """The sums of values [E, R] over the edges of each target, [N, R]."""
    return bag(edges.numbers, values.contiguous(), edges.starts)


def is_small(edges: Edges, x: Tensor) -> bool:
    """Whether a tensor of all edges and of the channels of nodes x [R, N, P] is small enough to be made."""
    return is_exporting() or len(edges) * x.shape[0] * x.shape[2] <= SMALL


def of_edges(x: Tensor, nodes: Tensor) -> Tensor:
    """x [R, N, P] at the nodes [E] of edges, [E, R, P]."""
    return node_rows(x).index_select(0, nodes).view(-1, x.shape[0], x.shape[2])


def sums_of_rows(rows: Tensor, edges: Edges, order: Tensor | None = None) -> Tensor:
    """The sums of rows [E, R, P] over the edges of each target, [R, N, P]. order: of the edges, if it is another."""
    sums = bag(edges.numbers if order is None else order, rows.flatten(1), edges.starts)
    return sums.view(-1, *rows.shape[1:]).transpose(0, 1)


def weighted_sums(weights: Tensor, values: Tensor, edges: Edges) -> Tensor:
    """The sums of the values [R, N, P] of sources, times the weights [E, R] of edges, over the edges of each target."""
    if is_small(edges, values):
        return sums_of_rows(of_edges(values, edges.source).mul_(weights[..., None]), edges)
    columns = weights.T.contiguous()
    sums = [bag(edges.source, x.contiguous(), edges.starts, w) for w, x in zip(columns, values, strict=True)]
    return torch.stack(sums, 1).transpose(0, 1)  # in memory N R P, as what follows reads it


def products(q: Tensor, k: Tensor, edges: Edges) -> Tensor:
    """q[target] . k[source] for each edge [E, R]: q, k [R, N, P]."""
    if is_small(edges, q):
        return of_edges(q, edges.target).mul_(of_edges(k, edges.source)).sum(-1)
    pattern = edges.pattern(q)
    rows = [torch.sparse.sampled_addmm(pattern, a.contiguous(), b.mT, beta=0.0).values() for a, b in zip(q, k)]
    return torch.stack(rows, 1)


class WeightedSums(torch.autograd.Function):
    """`weighted_sums` with gradients."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, edges: Edges) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(weights, values)
        return weighted_sums(weights, values, edges)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (weights, values), edges = ctx.saved_tensors, ctx.edges
        d_weights = d_values = None
        small = of_edges(grad, edges.target) if is_small(edges, grad) else None
        if ctx.needs_input_grad[0]:
            if small is None:
                d_weights = products(grad, values, edges)
            else:
                d_weights = of_edges(values, edges.source).mul_(small).sum(-1)
        if ctx.needs_input_grad[1]:
            order, reverse = edges.by_source
            if small is None:
                d_values = weighted_sums(weights.index_select(0, order), grad, reverse)
            else:
                d_values = sums_of_rows(small.mul_(weights[..., None]), reverse, order)
        return d_weights, d_values, None


class Products(torch.autograd.Function):
    """`products` with gradients."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, edges: Edges) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(q, k)
        return products(q, k, edges)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (q, k), edges = ctx.saved_tensors, ctx.edges
        d_q = d_k = None
        if ctx.needs_input_grad[0]:
            d_q = weighted_sums(grad, k, edges)
        if ctx.needs_input_grad[1]:
            order, reverse = edges.by_source
            d_k = weighted_sums(grad.index_select(0, order), q, reverse)
        return d_q, d_k, None


class PairSums(torch.autograd.Function):
    """a[target] + b[source] for each edge, [E, R]: a, b [N, R]."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, edges: Edges) -> Tensor:
        ctx.edges = edges
        a, b = a.contiguous(), b.contiguous()  # rows of which are read ten times as fast
        return a.index_select(0, edges.target).add_(b.index_select(0, edges.source))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        edges, d_a, d_b = ctx.edges, None, None
        grad = grad.contiguous()
        if ctx.needs_input_grad[0]:
            d_a = sum_of_edges(grad, edges)
        if ctx.needs_input_grad[1]:
            order, reverse = edges.by_source
            d_b = bag(order, grad, reverse.starts)
        return d_a, d_b, None


class EdgeSoftmax(torch.autograd.Function):
    """Softmax of scores [E, R] over the edges of each target; zeros where all of them are -inf."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, edges: Edges) -> Tensor:
        if not len(edges):
            weights = torch.zeros_like(scores)
        else:
            top = torch.segment_reduce(scores.contiguous(), "max", offsets=edges.starts, unsafe=True)
            top = torch.where(top.isfinite(), top, 0.0)
            weights = (scores - top.index_select(0, edges.target)).exp_()
            total = sum_of_edges(weights, edges).clamp_(min=torch.finfo(scores.dtype).tiny)
            weights *= total.reciprocal_().index_select(0, edges.target)
        ctx.edges = edges
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (weights,), edges = ctx.saved_tensors, ctx.edges
        product = weights * grad
        mean = sum_of_edges(product, edges)
        return product.sub_(weights * mean.index_select(0, edges.target)), None


class SmallLeakyProducts(torch.autograd.Function):
    """`LeakyProducts` of a small graph, which keeps what LeakyReLU gives for each edge."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, a: Tensor, edges: Edges, slope: float) -> Tensor:
        ctx.edges, ctx.slope = edges, slope
        leaky = F.leaky_relu_(of_edges(q, edges.target).add_(of_edges(k, edges.source)), slope)
        ctx.save_for_backward(leaky, a)
        return (leaky * a).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (leaky, a), edges = ctx.saved_tensors, ctx.edges
        order, reverse = edges.by_source
        d_a = torch.einsum("er,erp->rp", grad, leaky)
        rows = torch.ops.aten.leaky_relu_backward(grad[..., None] * a, leaky, ctx.slope, True)
        return sums_of_rows(rows, edges), sums_of_rows(rows, reverse, order), d_a, None, None


def leaky_products(q: Tensor, k: Tensor, a: Tensor, edges: Edges, slope: float) -> Tensor:
    """a . LeakyReLU(q[target] + k[source]) for each edge, [E, R]: q, k [R, N, P], a [R, P] (GATv2)."""
    function: Any = SmallLeakyProducts if is_small(edges, q) else LeakyProducts
    scores: Tensor = function.apply(q, k, a, edges, slope)
    return scores


class LeakyProducts(torch.autograd.Function):
    """`leaky_products` with gradients."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, a: Tensor, edges: Edges, slope: float) -> Tensor:
        ctx.edges, ctx.slope = edges, slope
        q, k = node_rows(q), node_rows(k)
        ctx.save_for_backward(q, k, a)
        scores = q.new_empty(len(edges), a.shape[0])
        for _, some in edges.runs(edges_at_a_time(a)):
            pairs = q.index_select(0, edges.target[some]).add_(k.index_select(0, edges.source[some]))
            torch.sum(F.leaky_relu_(pairs, slope).view(-1, *a.shape).mul_(a), -1, out=scores[some])
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (q, k, a), edges, slope = ctx.saved_tensors, ctx.edges, ctx.slope
        order, reverse = edges.by_source
        d_a = torch.zeros_like(a)
        d_q = leaky_sums(q, k, a, grad, edges, slope, d_a)
        d_k = leaky_sums(k, q, a, grad.index_select(0, order), reverse, slope)
        return d_q, d_k, d_a, None, None


def leaky_sums(
    q: Tensor, k: Tensor, a: Tensor, grad: Tensor, edges: Edges, slope: float, d_a: Tensor | None = None
) -> Tensor:
    """The gradient of a . LeakyReLU(q[target] + k[source]) [E, R] by q [N, RP], as [R, N, P]; that by a is added to
    `d_a`."""
    sums = torch.empty_like(q)
    for nodes, some in edges.runs(edges_at_a_time(a)):
        pairs = q.index_select(0, edges.target[some]).add_(k.index_select(0, edges.source[some]))
        slopes = torch.full_like(pairs, slope).masked_fill_(pairs > 0, 1.0)
        slopes = slopes.view(-1, *a.shape).mul_(grad[some, :, None])
        if d_a is not None:
            d_a += (pairs.view_as(slopes) * slopes).sum(0)
        starts = edges.starts[nodes.start : nodes.stop + 1] - some.start
        sums[nodes] = bag(edges.numbers[: some.stop - some.start], slopes.mul_(a).flatten(1), starts)
    return sums.view(-1, *a.shape).transpose(0, 1)


def node_rows(x: Tensor) -> Tensor:
    """[R, N, P] -> [N, RP], in one piece of memory."""
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def edges_at_a_time(a: Tensor) -> int:
    return max(1, (CHUNK_GPU if a.is_cuda else CHUNK) // a.numel())
