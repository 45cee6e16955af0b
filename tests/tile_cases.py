"""Masks and inputs of attention in tiles."""

import torch
from flex_cases import patterns

from zoo.nn import CAUSAL, GraphMask, PaddingMask, Window
from zoo.nn.masks import DocumentMask, GlobalTokensMask, MaskView, Strided
from zoo.nn.sparse.block_patterns import BlockLayout, NeighborBlocks, WindowPartition

STRIDED = Window(9, 9) | Strided(23)
N, DIM, SCALE = 300, 16, 0.2  # neither a multiple of a tile nor of a block of keys
IDS = torch.arange(N) // 70
KEEP = torch.ones(2, N, dtype=torch.bool)
KEEP[0, :100] = KEEP[1, 120:140] = False
PLACES = (KEEP.long().cumsum(1) - 1).clamp(min=0)  # positions count real tokens
MASKS = {
    **patterns(N),
    "dilated": Window(30, 30) & Strided(3),
    "shifted windows": WindowPartition(40, 20),
    "shifted windows of a grid": WindowPartition(7, 3, (14, 21), prefix=6),
    "windows larger than the grid": WindowPartition(30, 15, (20, 15)),
    "layout": BlockLayout(50, ((1, 0, 0, 0, 1, 0),) * 3 + ((0, 0, 1, 1, 0, 0), (0,) * 6, (0, 0, 0, 0, 0, 1))),
    "layout that ends early": BlockLayout(50, ((1, 0, 1),) * 3),
    "neighbors": NeighborBlocks(48),
    "graph": GraphMask(torch.randint(0, N, (2, 900), generator=torch.Generator().manual_seed(0)), N, self_loops=False),
    "larger than the row": Window(999, 3),
    "rows without keys": Window(20, 0) & PaddingMask((torch.arange(N) > 100).repeat(2, 1)),
    "causal strided": CAUSAL & STRIDED,
    "each key of a short window is strided": Window(3, 3) | Strided(2),
    "strided with global tokens": STRIDED | GlobalTokensMask(3),
    "strided documents": STRIDED & CAUSAL & DocumentMask(IDS[None]),
    "strided documents that start at 0": MaskView(STRIDED, (torch.arange(N) % 70)[None], (torch.arange(N) % 70)[None])
    & DocumentMask(IDS[None]),
    "padded strided": MaskView(CAUSAL & STRIDED, PLACES, PLACES, KEEP),
    "strided keys that are all masked": STRIDED & PaddingMask((torch.arange(N) % 23 != 5).repeat(2, 1)),
    "strided rows without keys": STRIDED & CAUSAL & PaddingMask((torch.arange(N) > 100).repeat(2, 1)),
    "global tokens in the middle": Window(5, 5) & DocumentMask(IDS[None]) | GlobalTokensMask(2),
}


def qkv(queries=N, keys=N, heads=4, groups=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    shapes = ((queries, heads), (keys, groups), (keys, groups))
    parts = [torch.randn(2, *shape, DIM, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [part.transpose(1, 2).requires_grad_() for part in parts]
