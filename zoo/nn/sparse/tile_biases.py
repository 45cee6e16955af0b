"""Position biases of an attention in tiles (`block_sparse.py`): evaluated for the pairs of one tile at a time."""

import torch
from torch import Tensor

from zoo.nn.index_functions import IndexFunction
from zoo.nn.position_biases import Bias, BiasOfHeads, BiasView, DistanceBias, Sum, T5RelativeBias
from zoo.nn.sparse.block_sparse import Tile
from zoo.nn.sparse.token_positions import Index


def for_tiles(bias: Bias, keys: int) -> Bias:
    """A bias of positions below `keys` as tiles take it: what it looks up are tensors, if possible of a size that does
    not grow with the length, because their gradient is added up in each tile."""
    if type(bias) is T5RelativeBias:
        return bias.near(keys)
    if type(bias) is Sum:
        return Sum(for_tiles(bias.left, keys), for_tiles(bias.right, keys))
    if type(bias) is BiasOfHeads:
        return BiasOfHeads(for_tiles(bias.inner, keys), bias.table("cpu"))
    if type(bias) is BiasView:
        return BiasView(for_tiles(bias.inner, keys), bias.q, bias.k, None)
    on_cpu: Bias = bias.on_device(keys, "cpu")
    return on_cpu


def serves(bias: Bias) -> bool:
    """Whether a bias in its form for tiles can be added in them: if it is learned, by the values of distances."""
    leaves = bias.leaves()
    return all(isinstance(leaf, DistanceBias) or not needs_gradient(leaf) for leaf in leaves)


def needs_gradient(leaf: IndexFunction) -> bool:
    """Whether the values of a bias have a gradient, by that of one pair."""
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.long)
    return torch.is_grad_enabled() and bool(leaf(zero, zero, zero, zero).requires_grad)


def learned(bias: Bias | None) -> list[Tensor]:
    """The values that need a gradient, of a bias in its form for tiles."""
    leaves = () if bias is None or not torch.is_grad_enabled() else bias.leaves()
    return [leaf.values for leaf in leaves if isinstance(leaf, DistanceBias) and leaf.values.requires_grad]


def bias_of(bias: Bias, tile: Tile, shape: torch.Size, keys: int) -> Tensor:
    """The bias of a tile [B or 1, H or 1, queries, keys], for q of a `shape` [B, H, N, P]; one row if the tile is of
    one row."""
    shift = 0 if bias.q is not None else keys - shape[2]
    rows = torch.tensor([tile.row]) if tile.row is not None else torch.arange(bias.batch)
    rows = rows if bias.batch > 1 else torch.zeros(1, dtype=torch.long)
    q, k = places(tile.queries) + shift, places(tile.keys)
    h = torch.arange(shape[1])  # the form for tiles does not know its number of heads
    return bias(rows.view(-1, 1, 1, 1), h.view(1, -1, 1, 1), q.view(1, 1, -1, 1), k.view(1, 1, 1, -1))


def places(index: Index) -> Tensor:
    """The positions of an index."""
    return torch.arange(index.start, index.stop) if isinstance(index, slice) else index
