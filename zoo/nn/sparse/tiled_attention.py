"""Softmax attention in tiles (`block_sparse.py`), forward and backward."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.nn.position_biases import Bias
from zoo.nn.sparse.block_sparse import Tile, Tiles
from zoo.nn.sparse.tile_biases import bias_of, for_tiles, learned
from zoo.nn.sparse.tiled_plain import NOTHING, in_order, plain_tiled_attention, read, write
from zoo.nn.sparse.token_positions import add, get, token_rows, zeros_like


def tiled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tiles: Tiles,
    scale: float,
    bias: Bias | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    """Softmax attention in tiles: q [B, H, N, P], k and v [B, G, M, P] -> [B, H, N, P], zeros for queries that see no
    key. Gradients are those of first order, as of torch's kernel."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    if tiles.gathers:
        q, k, v = (token_rows(x) for x in (q, k, v))
    bias = None if bias is None else for_tiles(bias, k.shape[2])
    if dropout or softcap is not None or learned(bias):
        return plain_tiled_attention(q, k, v, tiles, scale, bias, dropout, softcap)
    y: Tensor = TiledAttention.apply(q, k, v, tiles, scale, bias)[0]
    return y


class TiledAttention(torch.autograd.Function):
    """Computes the tiles one after the other. The backward pass takes the operation that torch's kernel has for it."""

    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, tiles: Tiles, scale: float, bias: Bias | None
    ) -> tuple[Tensor, Tensor]:
        """Returns the output and the logarithm of the softmax's sums [B, H, N]."""
        y, sums = zeros_like(q), zeros_like(q[..., 0], torch.promote_types(q.dtype, torch.float32)) + NOTHING
        tables = Tables(q.shape, k.shape, bias)
        for tile, again in in_order(tiles):
            q_tile, k_tile, v_tile = inputs_of(tile, q, k, v)
            out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q_tile, k_tile, v_tile, attn_mask=tables.of(tile, q_tile), scale=scale
            )
            out, lse = (unfold(x, q.shape[1]) for x in (out, lse))
            write(tile, again, y, sums, out, lse)
        return y, sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, ctx.tiles, ctx.scale, ctx.bias = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(q, k, v, *output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, y, sums = ctx.saved_tensors
        d_y = token_rows(d_y) if ctx.tiles.gathers else d_y
        d_q, d_k, d_v = (zeros_like(x, sums.dtype) for x in (q, k, v))  # sums of many tiles
        tables = Tables(q.shape, k.shape, ctx.bias)
        for tile in ctx.tiles.tiles + ctx.tiles.more:
            parts = inputs_of(tile, q, k, v)
            out, grad, lse = (fold(x, k.shape[1]) for x in read(tile, y, d_y, sums))
            grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                *(grad, *parts, out, lse, 0.0, False), attn_mask=tables.of(tile, parts[0]), scale=ctx.scale
            )
            add(tile.rows_of(d_q), tile.queries, unfold(grads[0], q.shape[1]))
            add(tile.rows_of(d_k), tile.keys, grads[1])
            add(tile.rows_of(d_v), tile.keys, grads[2])
        return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype), None, None, None


def inputs_of(tile: Tile, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q [B or 1, G, H / G * queries, P], k and v [B or 1, G, keys, P] of a tile."""
    q, k, v = (tile.rows_of(x) for x in (q, k, v))
    return fold(get(q, tile.queries), k.shape[1]), get(k, tile.keys), get(v, tile.keys)


class Tables:
    """The masks of tiles as torch's kernel takes them, with the bias; the one of the last tile is kept for the next."""

    def __init__(self, q_shape: torch.Size, k_shape: torch.Size, bias: Bias | None) -> None:
        self.q_shape, self.groups, self.keys, self.bias = q_shape, *k_shape[1:3], bias
        self.last: tuple[Tensor | None, Tensor | None] = (None, None)

    def of(self, tile: Tile, q: Tensor) -> Tensor | None:
        """[B or 1, G or 1, H / G * queries, keys] for q [B or 1, G, H / G * queries, P]; None if all pairs are allowed
        and there is no bias."""
        if self.bias is not None:
            biased = bias_of(self.bias, tile, self.q_shape, self.keys).to(q.dtype)
            biased = biased if tile.allowed is None else biased.masked_fill(~tile.allowed.to(biased.device), -torch.inf)
            heads = self.q_shape[1]
            return biased if self.groups == heads else fold(biased.expand(-1, heads, -1, -1), self.groups)
        if tile.allowed is None:
            return None
        allowed, table = self.last
        if table is None or allowed is not tile.allowed:  # equal tables follow each other
            table = torch.zeros(tile.allowed.shape, dtype=q.dtype).masked_fill_(~tile.allowed, -torch.inf)
            table = table.repeat(q.shape[2] // len(table), 1)[None, None]
            self.last = tile.allowed, table
        return table


def fold(x: Tensor, groups: int) -> Tensor:
    """[B, H, N, ...] -> [B, G, H / G * N, ...]: query heads that share a key head become rows."""
    return x if x.shape[1] == groups else x.reshape(x.shape[0], groups, -1, *x.shape[3:])


def unfold(x: Tensor, heads: int) -> Tensor:
    """The inverse of `fold`."""
    return x if x.shape[1] == heads else x.reshape(x.shape[0], heads, -1, *x.shape[3:])
