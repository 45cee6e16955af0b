"""Bounds of masks: nothing that a mask allows is outside, and what is far from it is."""

import pytest
import torch
from flex_cases import patterns

from zoo.nn import CAUSAL, NO_MASK, GraphMask, PaddingMask, TensorMask, Window
from zoo.nn.masks import DocumentMask, GlobalTokensMask, MaskView, Prefix, RandomBlocks, Strided, Window2D, Without
from zoo.nn.sparse import block_pairs
from zoo.nn.sparse.block_patterns import BlockLayout, NeighborBlocks, WindowPartition
from zoo.nn.sparse.mask_bounds import Spans, may_allow

N, BLOCK = 200, 8
KEEP = torch.arange(N) % 50 < 25
PLACES = (torch.stack([KEEP, ~KEEP]).long().cumsum(1) - 1).clamp(min=0)
MASKS = {
    **patterns(N),
    "causal": CAUSAL,
    "no mask": NO_MASK,
    "global": GlobalTokensMask(3),
    "prefix alone": Prefix(9),
    "random": RandomBlocks(20, 2, 1),
    "small random blocks": RandomBlocks(4, 1, 1),
    "padded random blocks alone": MaskView(RandomBlocks(20, 2, 1), PLACES, PLACES, torch.stack([KEEP, ~KEEP])),
    "strided alone": Strided(64),
    "dilated": Window(30, 30) & Strided(3),
    "strided without a window": Without(Strided(64), Window(3, 3)),
    "shifted": WindowPartition(40, 20, prefix=2),
    "shifted 2d": WindowPartition(4, 2, (10, 20)),
    "layout": BlockLayout(20, ((1, 0, 0, 1),) * 3 + ((0, 0, 1, 0),)),
    "neighbors": NeighborBlocks(12),
    "grid": Window2D((10, 20), 1, 1),
    "padding": PaddingMask(torch.stack([KEEP, ~KEEP])),
    "graph": GraphMask(torch.randint(0, N, (2, 60), generator=torch.Generator().manual_seed(0)), N, self_loops=False),
    "no edges": GraphMask(torch.zeros(2, 0, dtype=torch.long), N, self_loops=False),
    "documents in order": DocumentMask(torch.arange(N)[None] // 30),
    "documents out of order": DocumentMask(torch.arange(N)[None] // 30 % 3),
    "tensor": TensorMask(torch.rand(1, 1, N, N, generator=torch.Generator().manual_seed(1)) > 0.999),
}
UNKNOWN = ("tensor", "documents out of order")  # no bound: all blocks


def blocks_of(mask, size):
    """(blocks with an allowed pair, blocks that the bound allows), [B, rows, columns]."""
    dense = mask.dense(N, N)[:, 0]
    true = dense.unflatten(2, (-1, size)).any(3).unflatten(1, (-1, size)).any(2)
    first = torch.arange(0, N, size)[None]
    spans = Spans(first, first + size - 1)
    return true, may_allow(mask, spans, spans).expand(true.shape)


@pytest.mark.parametrize("size", [BLOCK, 1])
@pytest.mark.parametrize("name", MASKS)
def test_bounds_hold_what_is_allowed_and_little_more(name, size):
    true, bound = blocks_of(MASKS[name], size)
    assert not (true & ~bound).any()
    if name in UNKNOWN:
        assert bound.all()
    elif "2d" in name or name == "grid":
        assert bound.float().mean() < 0.6  # a bound on rows only
    elif not (size == 1 and "padded" in name):  # padding repeats a position
        assert (bound & ~true).float().mean() < 0.08


@pytest.mark.parametrize(
    "name", ["causal", "strided alone", "strided", "local", "documents in order", "graph", "random"]
)
def test_bounds_of_single_positions_are_the_mask(name):
    true, bound = blocks_of(MASKS[name], 1)
    assert torch.equal(true, bound)


def test_a_graph_with_blocks_that_overlap_has_no_bound():
    first = torch.tensor([[0, 4]])
    assert may_allow(MASKS["graph"], Spans(first, first + 7), Spans(first, first + 7)).all()


def test_both_sides_of_a_window_are_bounded():
    q = Spans(torch.tensor([[100]]), torch.tensor([[109]]))
    k = Spans(torch.arange(0, N, 5)[None], torch.arange(4, N, 5)[None])
    assert may_allow(Window(10, 20), q, k)[0, 0].nonzero().flatten().tolist() == list(range(90 // 5, 130 // 5))


@pytest.mark.parametrize("name", MASKS)
def test_pairs_of_blocks_are_those_of_the_table(name, monkeypatch):
    """Found in large blocks first and from links, also for blocks that are not in order and for a few queries."""
    monkeypatch.setattr(block_pairs, "FIRST", 4)
    monkeypatch.setattr(block_pairs, "AT_ONCE", 200)
    mask = MASKS[name]
    first = torch.arange(0, N, BLOCK)[None]
    k = Spans(first, first + BLOCK - 1)
    odd = torch.randperm(N, generator=torch.Generator().manual_seed(0)).view(-1, 10)
    for q in (k, Spans(odd.amin(1)[None], odd.amax(1)[None]), Spans(first[:, 3:5], first[:, 3:5])):
        table = may_allow(mask, q, k).expand(mask.batch, q.first.shape[1], k.first.shape[1])
        assert torch.equal(block_pairs.block_pairs(mask, q, k), table.flatten().nonzero().flatten())
