"""Masks against tables made by hand, one pair of tokens at a time."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_examples import examples
from torch.nn.attention.flex_attention import create_mask, flex_attention

from zoo.nn import (
    CAUSAL,
    NO_MASK,
    Causal,
    DocumentMask,
    GlobalTokensMask,
    GraphMask,
    NoMask,
    PaddingMask,
    Prefix,
    RandomBlocks,
    Strided,
    TensorMask,
    Window,
    Window2D,
    masks,
)
from zoo.nn.masks import MaskView, as_mask
from zoo.nn.padding import pack_rows
from zoo.nn.sdpa import is_causal

KEEP = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1]])
IDS = torch.tensor([[0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 1, 1], [3, 3, 3, 0, 0, 0]])
EDGES = torch.tensor([[0, 1, 2, 5, 3, 3], [1, 2, 0, 4, 0, 0]])  # the last edge twice
TABLE = torch.rand(3, 2, 6, 6, generator=torch.Generator().manual_seed(0)) > 0.5


def near(q, k, rows, columns, width, prefix):
    if q < prefix or k < prefix:
        return True
    (r, c), (s, d) = divmod(q - prefix, width), divmod(k - prefix, width)
    return abs(r - s) <= rows and abs(c - d) <= columns


CASES = {  # mask -> the same for four Python numbers
    "full": (NO_MASK, lambda b, h, q, k: True),
    "causal": (CAUSAL, lambda b, h, q, k: k <= q),
    "window": (Window(2, 1), lambda b, h, q, k: -2 <= k - q <= 1),
    "window2d": (Window2D((2, 2), 1, 0, prefix=2), lambda b, h, q, k: near(q, k, 1, 0, 2, 2)),
    "strided": (Strided(3), lambda b, h, q, k: abs(q - k) % 3 == 0),
    "global": (GlobalTokensMask(2), lambda b, h, q, k: q < 2 or k < 2),
    "prefix": (Prefix(2), lambda b, h, q, k: k < 2),
    "padding": (PaddingMask(KEEP), lambda b, h, q, k: bool(KEEP[b, k])),
    "documents": (DocumentMask(IDS), lambda b, h, q, k: bool(IDS[b, q] == IDS[b, k])),
    "edges": (GraphMask(EDGES, 6), lambda b, h, q, k: q == k or [k, q] in EDGES.T.tolist()),
    "edges_only": (GraphMask(EDGES, 6, self_loops=False), lambda b, h, q, k: [k, q] in EDGES.T.tolist()),
    "given": (TensorMask(TABLE), lambda b, h, q, k: bool(TABLE[b, h, q, k])),
    "given_rows": (TensorMask(TABLE[:, :1, :1]), lambda b, h, q, k: bool(TABLE[b, 0, 0, k])),
}
names = st.sampled_from(sorted(CASES))


def by_hand(predicate, queries=6, keys=6, batch=3, heads=2):
    table = torch.zeros(batch, heads, queries, keys, dtype=torch.bool)
    for b, h, q, k in itertools.product(*map(range, table.shape)):
        table[b, h, q, k] = predicate(b, h, q + keys - queries, k)
    return table


def dense(mask, queries=6, keys=6):
    return mask.dense(queries, keys).expand(3, 2, queries, keys)


@pytest.mark.parametrize("name", CASES)
def test_a_mask_is_its_predicate(name):
    mask, predicate = CASES[name]
    assert torch.equal(dense(mask), by_hand(predicate))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("queries", [1, 4])
def test_fewer_queries_than_keys_are_the_last_ones(name, queries):
    mask, predicate = CASES[name]
    assert torch.equal(dense(mask, queries), by_hand(predicate, queries))


@settings(max_examples=examples(60), deadline=None)
@given(names, names, names)
def test_masks_combine_with_and_and_or(first, second, third):
    (a, pa), (b, pb), (c, pc) = CASES[first], CASES[second], CASES[third]
    assert torch.equal(dense((a & b) | c), by_hand(lambda *i: (pa(*i) and pb(*i)) or pc(*i)))
    assert torch.equal(dense(a & (b | c)), by_hand(lambda *i: pa(*i) and (pb(*i) or pc(*i))))


@settings(max_examples=examples(40), deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2), st.integers(0, 2), st.integers(0, 3))
def test_windows_on_a_grid(height, width, rows, columns, prefix):
    size = prefix + height * width
    seen = Window2D((height, width), rows, columns, prefix).dense(size, size).expand(3, 2, size, size)
    assert torch.equal(seen, by_hand(lambda b, h, q, k: near(q, k, rows, columns, width, prefix), size, size))


@settings(max_examples=examples(60), deadline=None)
@given(names, names, st.integers(1, 6))
def test_hides_nothing_agrees_with_the_dense_mask(first, second, queries):
    for mask in (CASES[first][0], CASES[first][0] & CASES[second][0], CASES[first][0] | CASES[second][0]):
        if mask.hides_nothing(queries, 6) and not isinstance(mask, TensorMask):
            assert dense(mask, queries).all()


def test_masks_are_equal_by_value_and_recognized_by_their_parts():
    mask = Causal() & Window(3, 0) & NoMask()
    assert mask == CAUSAL & Window(3, 0) and hash(mask) == hash(CAUSAL & Window(3, 0))
    assert mask != CAUSAL & Window(4, 0)
    assert set(mask.parts()) == {CAUSAL, Window(3, 0)} and NO_MASK.parts() == ()
    assert CAUSAL & CAUSAL == CAUSAL and NO_MASK & CAUSAL == CAUSAL and (NO_MASK | CAUSAL) == NO_MASK
    for original in (CAUSAL, mask, CAUSAL | Prefix(2), RandomBlocks(2, 3, 1), Window2D((2, 2), 1, 1)):
        assert copy.deepcopy(original) == original


def test_is_causal_is_recognized_by_value():
    assert is_causal(copy.deepcopy(CAUSAL), 5, 5)
    assert is_causal(CAUSAL & Window(5, 5), 5, 5)  # that window hides nothing of five tokens
    assert is_causal(MaskView(CAUSAL), 5, 5)
    assert not is_causal(CAUSAL & Window(2, 0), 5, 5)
    assert not is_causal(CAUSAL, 4, 5)  # kernels align the two ends at the top left
    assert not is_causal(CAUSAL | Prefix(2), 5, 5)
    assert not is_causal(CAUSAL & PaddingMask(KEEP), 6, 6)
    assert not is_causal(MaskView(CAUSAL, torch.arange(5)[None]), 5, 5)


FLEX = [name for name in CASES if not name.startswith("edges")]


@pytest.mark.parametrize("name", [*FLEX, "edges", "random", "both"])
def test_a_mask_is_a_mask_mod(name):
    both = CAUSAL & PaddingMask(KEEP) | Prefix(1)
    mask = {"both": both, "random": RandomBlocks(2, 1)}.get(name) or CASES[name][0]
    assert torch.equal(create_mask(mask, 3, 2, 6, 6, device="cpu"), dense(mask))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", ["causal", "window", "padding", "documents", "strided"])
def test_flex_attention_computes_what_our_cores_do(name):
    from torch.nn.attention.flex_attention import create_block_mask

    from zoo.nn import CoreSpec, SoftmaxAttention

    mask = CASES[name][0]
    q, k, v = torch.randn(3, 3, 2, 6, 16, dtype=torch.float64)
    block_mask = create_block_mask(mask, 3, 2, 6, 6, device="cpu")
    ours = SoftmaxAttention(CoreSpec(heads=2, kv_heads=2, head_dim=16))(q, k, v, mask)
    torch.testing.assert_close(ours, flex_attention(q, k, v, block_mask=block_mask), atol=1e-10, rtol=0)


def links(mask, blocks, size):
    """Which earlier blocks each block is linked with: [blocks, blocks]."""
    seen = mask.dense(blocks * size, blocks * size)[0, 0]
    tiles = seen.view(blocks, size, blocks, size).transpose(1, 2).flatten(2)
    assert torch.equal(tiles.any(-1), tiles.all(-1))  # a block is seen as a whole, or not at all
    assert torch.equal(tiles.any(-1), tiles.any(-1).mT)  # a link runs both ways
    return tiles.any(-1).tril(-1)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_random_blocks_have_about_the_given_number_of_links(count):
    made = torch.stack([links(RandomBlocks(4, count, seed), 40, 4).sum(1) for seed in range(8)]).float()
    assert made.max() <= count  # drawn twice counts once
    assert count * 0.85 <= made[:, 8:].mean() <= count
    assert made[:, 1].eq(1).all() and made[:, 0].eq(0).all()


def test_random_blocks_are_spread_evenly_and_differ_between_seeds():
    drawn = [links(RandomBlocks(1, 1, seed), 9, 1)[8].nonzero().item() for seed in range(400)]
    counts = torch.bincount(torch.tensor(drawn), minlength=8)
    chi_square = ((counts - 50.0) ** 2 / 50).sum()
    assert chi_square < 24.3, counts  # 7 degrees of freedom: 99.9 %


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 99), st.integers(1, 40), st.integers(0, 30))
def test_random_blocks_do_not_depend_on_the_length(block, count, seed, length, more):
    mask = RandomBlocks(block, count, seed)
    assert torch.equal(mask.dense(length, length), mask.dense(length + more, length + more)[..., :length, :length])


def links_by_hash(mask, i, j):
    """The graph pair by pair: a hash of the later block chooses the earlier one."""
    later, earlier = torch.maximum(i, j), torch.minimum(i, j)
    linked = later < 0
    for link in range(mask.count):
        x = later * 0x2545F4914F6CDD1D + (link * 0x1B873593 + mask.seed * 0x3C6EF372 + 0x165667B1)
        x = (x ^ (x >> 29)) * 0x3C79AC492BA7B653
        x = ((x ^ (x >> 32)) * 0x1C69B3F74AC4AE35 >> 17) & 0x3FFFFFFFFFFF
        linked = linked | (x % later.clamp(min=1) == earlier)
    return linked & (later > earlier)


@pytest.mark.parametrize(("block", "count", "seed"), [(1, 1, 0), (16, 2, 3), (7, 3, 1000), (64, 5, 11), (5, 0, 0)])
def test_random_blocks_are_computed_and_looked_up_alike(block, count, seed):
    mask, n = RandomBlocks(block, count, seed), 300
    index = torch.arange(n)
    expected = links_by_hash(mask, index[:, None] // block, index // block)
    assert torch.equal(mask.dense(n, n)[0, 0], expected)
    assert torch.equal(mask.dense(40, n)[0, 0], expected[-40:])
    for keys in (n, n + 1000):
        assert torch.equal(mask.on_device(keys, "cpu").dense(n, n)[0, 0], expected)
    positions = (index - 50).clamp(min=0)[None]
    looked_up = MaskView(mask.on_device(n, "cpu"), positions, positions).dense(n, n)
    assert torch.equal(looked_up[0, 0], expected[positions[0]][:, positions[0]])


def test_random_blocks_hash_no_pairs(monkeypatch):
    hashed, compute = [], masks._hash
    monkeypatch.setattr(masks, "_hash", lambda *args: hashed.append(compute(*args)) or hashed[-1])
    RandomBlocks(16, 2).dense(2048, 2048)
    assert sum(x.numel() for x in hashed) == 2 * 2 * 2048
    hashed.clear()
    RandomBlocks(16, 2).on_device(2048, "cpu").dense(2048, 2048)
    assert sum(x.numel() for x in hashed) == 2 * 2048 // 16


def test_edges_are_pytorch_geometrics_dense_adjacency():
    draw = torch.Generator().manual_seed(1)
    source, target = torch.randint(11, (2, 30), generator=draw)
    adjacency = torch.zeros(11, 11, dtype=torch.bool)
    adjacency[source, target] = True  # to_dense_adj: [source, target]
    seen = GraphMask(torch.stack([source, target]), 11, self_loops=False).dense(11, 11)[0, 0]
    assert torch.equal(seen, adjacency.mT)


def test_edges_of_a_wrong_shape_raise():
    for bad, nodes, message in ((EDGES, 5, "nodes=5"), (EDGES - 1, 6, "nodes=6"), (EDGES[:1], 6, r"\(1, 6\)")):
        with pytest.raises(ValueError, match=message):
            GraphMask(bad, nodes)


def test_an_empty_edge_list_leaves_the_loops():
    none = torch.zeros(2, 0, dtype=torch.long)
    assert torch.equal(GraphMask(none, 3).dense(3, 3)[0, 0], torch.eye(3, dtype=torch.bool))
    assert not GraphMask(none, 3, self_loops=False).dense(3, 3).any()


def test_fully_masked_rows_are_opened_and_returned():
    allowed, fully_masked = (CAUSAL & PaddingMask(KEEP)).evaluate(6, 6, None)
    assert fully_masked[1, 0, 0].all() and fully_masked.sum() == 1
    assert allowed[1, 0, 0].all() and allowed.any(-1).all()
    assert CAUSAL.evaluate(6, 6, None)[1] is None


def test_padding_is_evaluated_once_for_all_queries():
    keep = torch.tensor([[True, True, False], [False, False, False]])
    for mask in (PaddingMask(keep), MaskView(NO_MASK, keep=keep), MaskView(PaddingMask(keep), keep=keep)):
        allowed, fully_masked = mask.evaluate(3, 3, None)
        assert allowed.shape == (2, 1, 1, 3) and fully_masked.flatten().tolist() == [False, True]
        assert torch.equal((allowed & ~fully_masked).expand(2, 1, 3, 3), mask.dense(3, 3))
    assert MaskView(CAUSAL, keep=keep).evaluate(3, 3, None)[0].shape == (2, 1, 3, 3)
    assert MaskView(NO_MASK, rows=pack_rows(keep, [2, 0])).evaluate(2, 2, None)[0].shape == (1, 1, 2, 2)


def test_a_view_uses_positions():
    keep = KEEP.bool()
    positions = keep.long().cumsum(1) - 1
    view = MaskView(Window(1, 0), positions, positions, keep)
    places = positions.tolist()
    by_position = by_hand(lambda b, h, q, k: bool(KEEP[b, k]) and 0 <= places[b][q] - places[b][k] <= 1)
    assert torch.equal(dense(view), by_position)
    assert torch.equal(dense(view & CAUSAL), by_position) and torch.equal(dense(CAUSAL & view), by_position)


def test_tensors_become_masks():
    assert as_mask(None) is NO_MASK and as_mask(CAUSAL) is CAUSAL
    assert torch.equal(as_mask(TABLE[0, 0]).dense(6, 6)[0, 0], TABLE[0, 0])
    with pytest.raises(ValueError, match="bias="):
        as_mask(torch.zeros(6, 6))


def test_a_window_wider_than_the_text_is_causal_and_hides_nothing_from_the_last_token():
    from zoo.nn.sdpa import is_causal

    assert Window(9, 0).hides_nothing(1, 10) and not Window(8, 0).hides_nothing(1, 10)
    assert not Window(9, 0).hides_nothing(2, 10)
    assert is_causal(CAUSAL & Window(9, 0), 10, 10) and is_causal(Window(9, 0), 10, 10)
    assert not is_causal(CAUSAL & Window(8, 0), 10, 10) and not is_causal(Window(9, 1), 10, 10)


def test_only_a_single_query_sees_all_keys_under_a_causal_mask():
    assert CAUSAL.hides_nothing(1, 5) and not CAUSAL.hides_nothing(2, 2) and not CAUSAL.hides_nothing(2, 5)


def test_layers_of_different_patterns_share_a_cache_but_not_their_masks():
    view = MaskView(CAUSAL, keep=torch.tensor([[True, True, True, False]]))
    near, far = ((view & Window(left, 0)).evaluate(4, 4, None)[0] for left in (0, 2))
    assert not torch.equal(near, far) and len(view.cache) == 2
    assert (view & Window(2, 0)).evaluate(4, 4, None)[0] is far
