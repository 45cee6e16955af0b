"""Softmax attention in tiles (`block_sparse.py`) in plain operations: with what torch's kernel on a CPU does not
have, dropout of the weights, biases that are learned, and a soft cap of the scores.

The backward pass computes the weights of a tile again, from the sums of the softmax, and samples the same links to drop
again, from the same seed. So both passes hold the scores of one tile at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.nn.position_biases import Bias
from zoo.nn.sparse.block_sparse import Tile, Tiles
from zoo.nn.sparse.tile_biases import bias_of, learned
from zoo.nn.sparse.token_positions import add, get, put, zeros_like

NOTHING = -1e30  # the logarithm of a sum of no keys, from which others can be subtracted


@dataclass(frozen=True, eq=False)
class Options:
    """What is not the same in all attentions. seed: of the dropout."""

    tiles: Tiles
    scale: float
    bias: Bias | None
    dropout: float
    softcap: float | None
    seed: int

    def kept(self) -> "Dropout | None":
        return Dropout(self.dropout, self.seed) if self.dropout else None


class Dropout:
    """Factors of attention weights, 0 or 1 / (1 - rate), one tensor after the other."""

    def __init__(self, rate: float, seed: int) -> None:
        self.keep = 1 - rate
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, weights: Tensor) -> Tensor:
        if not self.keep:
            return torch.zeros_like(weights)
        return torch.empty_like(weights).bernoulli_(self.keep, generator=self.generator).div_(self.keep)


def plain_tiled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tiles: Tiles,
    scale: float,
    bias: Bias | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    """As `tiled_attention`; bias: in its form for tiles."""
    seed = int(torch.randint(1 << 62, ())) if dropout else 0
    options = Options(tiles, scale, bias, dropout, softcap, seed)
    y: Tensor = PlainTiledAttention.apply(q, k, v, options, *learned(bias))[0]
    return y


class PlainTiledAttention(torch.autograd.Function):
    """Computes the tiles one after the other, in single precision at least. values: the learned ones of the bias."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, options: Options, *values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the output and the logarithm of the softmax's sums [B, H, N]."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        y, sums = zeros_like(q, dtype), zeros_like(q[..., 0], dtype) + NOTHING
        dropout = options.kept()
        for tile, again in in_order(options.tiles):
            scores, _ = scores_of(tile, q, k, options)
            lse = scores.logsumexp(-1)
            weights = scores.sub_(lse[..., None]).exp_()
            if dropout is not None:
                weights *= dropout(weights)
            out = product(weights, get(tile.rows_of(v), tile.keys))
            write(tile, again, y, sums, out, lse)
        return y.to(q.dtype), sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, ctx.options, *ctx.values = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(q, k, v, *output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, y, sums = ctx.saved_tensors
        options: Options = ctx.options
        d_q, d_k, d_v = (zeros_like(x, sums.dtype) for x in (q, k, v))  # sums of many tiles
        d_values = [torch.zeros_like(x) for x in ctx.values]
        dropout = options.kept()
        for tile in options.tiles.tiles + options.tiles.more:
            (scores, slope), keys = scores_of(tile, q, k, options), get(tile.rows_of(k), tile.keys)
            out, grad, lse = (x.to(sums.dtype) for x in read(tile, y, d_y, sums))
            weights = scores.sub_(lse[..., None]).exp_()
            factors = None if dropout is None else dropout(weights)
            kept = weights if factors is None else weights * factors
            add(tile.rows_of(d_v), tile.keys, sums_over_queries(kept, grad, k.shape[1]))
            d_scores = product(grad, get(tile.rows_of(v), tile.keys).mT)
            d_scores = d_scores if factors is None else d_scores.mul_(factors)
            d_scores = d_scores.sub_((out * grad).sum(-1, keepdim=True)).mul_(weights)
            if d_values:
                add_to_values(d_values, ctx.values, tile, q.shape, k.shape[2], options, d_scores)
            d_scores = d_scores.mul_(options.scale) if slope is None else d_scores.mul_(slope * options.scale)
            add(tile.rows_of(d_q), tile.queries, product(d_scores, keys))
            q_tile = get(tile.rows_of(q), tile.queries)
            add(tile.rows_of(d_k), tile.keys, sums_over_queries(d_scores, q_tile, k.shape[1]))
        return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype), None, *d_values


def in_order(tiles: Tiles) -> Iterator[tuple[Tile, bool]]:
    """All tiles, and whether their queries may have been in one before."""
    yield from ((tile, False) for tile in tiles.tiles)
    yield from ((tile, True) for tile in tiles.more)


def write(tile: Tile, again: bool, y: Tensor, sums: Tensor, out: Tensor, lse: Tensor) -> None:
    """Write the output of a tile, and the logarithm of its sums, into those of all queries.

    again: the queries have been in a tile before, with whose output this one is combined.
    """
    if tile.fully_masked is not None:
        hidden = tile.fully_masked.to(out.device)
        out, lse = out.masked_fill(hidden, 0.0), lse.masked_fill(hidden[:, 0], NOTHING)
    y, sums = tile.rows_of(y), tile.rows_of(sums)
    if again:
        before, sum_before = get(y, tile.queries), get(sums, tile.queries)
        total = torch.logaddexp(sum_before, lse)
        out = (sum_before - total).exp_()[..., None] * before + (lse - total).exp_()[..., None] * out
        lse = total
    put(y, tile.queries, out)
    put(sums, tile.queries, lse)


def read(tile: Tile, y: Tensor, d_y: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The output of a tile's queries, its gradient, and the logarithm of the sums; none of it for masked queries."""
    out, grad, lse = (get(tile.rows_of(x), tile.queries) for x in (y, d_y, sums))
    if tile.fully_masked is not None:  # with an infinite sum the weights are zeros
        hidden = tile.fully_masked.to(grad.device)
        grad, lse = grad.masked_fill(hidden, 0.0), lse.masked_fill(hidden[:, 0], inf)
    return out, grad, lse


def scores_of(tile: Tile, q: Tensor, k: Tensor, options: Options) -> tuple[Tensor, Tensor | None]:
    """Scores [B or 1, H, queries, keys] of a tile, and with a soft cap its slope; -inf where the mask hides a key."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    q_tile = get(tile.rows_of(q), tile.queries).to(dtype) * options.scale
    scores = product(q_tile, get(tile.rows_of(k), tile.keys).mT)
    slope = None
    if options.softcap is not None:
        share = (scores / options.softcap).tanh_()
        scores, slope = share * options.softcap, 1 - share.square()
    if options.bias is not None:
        scores = scores + bias_of(options.bias, tile, q.shape, k.shape[2]).to(dtype)
    return scores if tile.allowed is None else scores.masked_fill_(~tile.allowed.to(scores.device), -inf), slope


def add_to_values(
    d_values: list[Tensor],
    values: list[Tensor],
    tile: Tile,
    shape: torch.Size,
    keys: int,
    options: Options,
    d_scores: Tensor,
) -> None:
    """Add the gradients of a tile to those of the learned values of the bias."""
    assert options.bias is not None
    with torch.enable_grad():
        bias = bias_of(options.bias, tile, shape, keys)
    found = torch.autograd.grad(bias, values, d_scores.sum_to_size(bias.shape).to(bias.dtype), allow_unused=True)
    for total, own in zip(d_values, found, strict=True):
        if own is not None:
            total += own


def product(x: Tensor, y: Tensor) -> Tensor:
    """x [B, H, n, m] @ y [B, G, m, l] -> [B, H, n, l]: query heads that share a key head become rows."""
    heads, groups, y = x.shape[1], y.shape[1], y.to(x.dtype)
    if heads == groups:
        return x @ y
    return (x.reshape(len(x), groups, -1, x.shape[3]) @ y).view(len(x), heads, -1, y.shape[3])


def sums_over_queries(weights: Tensor, x: Tensor, groups: int) -> Tensor:
    """weights [B, H, n, m], x [B, H, n, P] -> weights^T x [B, G, m, P], summed over the heads that share a key head."""
    weights, x = (t.reshape(len(t), groups, -1, t.shape[3]) for t in (weights, x.to(weights.dtype)))
    return weights.mT @ x
