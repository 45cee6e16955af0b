"""Softmax attention in tiles (`zoo.nn.block_sparse`), forward and backward."""

from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.nn.block_sparse import Tile, Tiles
from zoo.nn.token_positions import add, get, put, token_rows

NOTHING = -1e30  # the logarithm of a sum of no keys, from which others can be subtracted


def tiled_attention(q: Tensor, k: Tensor, v: Tensor, tiles: Tiles, scale: float) -> Tensor:
    """Softmax attention in tiles: q [B, H, N, P], k and v [B, G, M, P] -> [B, H, N, P], zeros for queries that see no
    key. Gradients are those of first order, as of torch's kernel."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    if tiles.gathers:
        q, k, v = (token_rows(x) for x in (q, k, v))
    y: Tensor = TiledAttention.apply(q, k, v, tiles, scale)[0]
    return y


class TiledAttention(torch.autograd.Function):
    """Computes the tiles one after the other. The backward pass takes the operation that torch's kernel has for it."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, tiles: Tiles, scale: float) -> tuple[Tensor, Tensor]:
        """Returns the output and the logarithm of the softmax's sums [B, H, N]."""
        y, sums = zeros_like(q), zeros_like(q[..., 0], torch.promote_types(q.dtype, torch.float32)) + NOTHING
        tables: dict[int, Tensor] = {}
        for i, tile in enumerate(tiles.tiles + tiles.more):
            q_tile, k_tile, v_tile = inputs_of(tile, q, k, v)
            out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q_tile, k_tile, v_tile, attn_mask=table_of(tile, q_tile, tables), scale=scale
            )
            out, lse = (unfold(x, q.shape[1]) for x in (out, lse))
            if tile.fully_masked is not None:
                hidden = tile.fully_masked.to(out.device)
                out, lse = out.masked_fill(hidden, 0.0), lse.masked_fill(hidden[:, 0], NOTHING)
            y_rows, sums_rows = tile.rows_of(y), tile.rows_of(sums)
            if i >= len(tiles.tiles):
                before, sum_before = get(y_rows, tile.queries), get(sums_rows, tile.queries)
                total = torch.logaddexp(sum_before, lse)
                out = (sum_before - total).exp_()[..., None] * before + (lse - total).exp_()[..., None] * out
                lse = total
            put(y_rows, tile.queries, out)
            put(sums_rows, tile.queries, lse)
        return y, sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, ctx.tiles, ctx.scale = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(q, k, v, *output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, y, sums = ctx.saved_tensors
        d_y = token_rows(d_y) if ctx.tiles.gathers else d_y
        d_q, d_k, d_v = (zeros_like(x, sums.dtype) for x in (q, k, v))  # sums of many tiles
        tables: dict[int, Tensor] = {}
        for tile in ctx.tiles.tiles + ctx.tiles.more:
            parts = inputs_of(tile, q, k, v)
            out, grad, lse = (get(tile.rows_of(x), tile.queries) for x in (y, d_y, sums))
            if tile.fully_masked is not None:  # with an infinite sum the weights are zeros
                hidden = tile.fully_masked.to(grad.device)
                grad, lse = grad.masked_fill(hidden, 0.0), lse.masked_fill(hidden[:, 0], inf)
            out, grad, lse = (fold(x, k.shape[1]) for x in (out, grad, lse))
            grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                *(grad, *parts, out, lse, 0.0, False), attn_mask=table_of(tile, parts[0], tables), scale=ctx.scale
            )
            add(tile.rows_of(d_q), tile.queries, unfold(grads[0], q.shape[1]))
            add(tile.rows_of(d_k), tile.keys, grads[1])
            add(tile.rows_of(d_v), tile.keys, grads[2])
        return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype), None, None


def zeros_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Zeros in the shape of x [B, H, N, ...], with the heads of a token beside each other as in torch's kernel."""
    x = x.transpose(1, 2)
    return torch.zeros(x.shape, dtype=dtype or x.dtype, device=x.device).transpose(1, 2)


def inputs_of(tile: Tile, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q [B or 1, G, H / G * queries, P], k and v [B or 1, G, keys, P] of a tile."""
    q, k, v = (tile.rows_of(x) for x in (q, k, v))
    return fold(get(q, tile.queries), k.shape[1]), get(k, tile.keys), get(v, tile.keys)


def table_of(tile: Tile, q: Tensor, tables: dict[int, Tensor]) -> Tensor | None:
    """The mask of a tile as torch's kernel takes it, once for each group of heads; kept in `tables` for the next."""
    if tile.allowed is None:
        return None
    table = tables.get(id(tile.allowed))
    if table is None:
        table = torch.zeros(tile.allowed.shape, dtype=q.dtype).masked_fill_(~tile.allowed, -torch.inf)
        table = table.repeat(q.shape[2] // len(table), 1)[None, None]
        tables.clear()  # equal tables follow each other
        tables[id(tile.allowed)] = table
    return table


def fold(x: Tensor, groups: int) -> Tensor:
    """[B, H, N, ...] -> [B, G, H / G * N, ...]: query heads that share a key head become rows."""
    return x if x.shape[1] == groups else x.reshape(x.shape[0], groups, -1, *x.shape[3:])


def unfold(x: Tensor, heads: int) -> Tensor:
    """The inverse of `fold`."""
    return x if x.shape[1] == heads else x.reshape(x.shape[0], heads, -1, *x.shape[3:])
