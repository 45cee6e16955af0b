"""Attention in tiles against torch's own on a table of all pairs, and what it skips."""

import pytest
import torch
import torch.nn.functional as F
from tile_cases import DIM, MASKS, SCALE, STRIDED, N, qkv
from torch.nn.attention import SDPBackend, sdpa_kernel

from zoo.nn import CAUSAL, ALiBi, Mask, PaddingMask, TensorBias, Window
from zoo.nn.context import Context
from zoo.nn.masks import DocumentMask, GlobalTokensMask, MaskView, RandomBlocks, Strided, Window2D
from zoo.nn.sdpa import attend, explain_kernel, repeat_kv
from zoo.nn.sparse import block_masks, block_sparse
from zoo.nn.sparse.block_patterns import NeighborBlocks, WindowPartition
from zoo.nn.sparse.block_sparse import Tiles, tiles_of
from zoo.nn.sparse.tiled_attention import tiled_attention


@pytest.fixture(autouse=True)
def always_in_tiles(monkeypatch):
    """At any length, and where they are not the faster choice."""
    monkeypatch.setattr(block_masks, "_kept", type(block_masks._kept)())
    monkeypatch.setattr(block_sparse, "MIN_PAIRS", 0)
    monkeypatch.setattr(block_sparse, "TABLE", 1e9)


def dense(q, k, v, mask):
    allowed, fully_masked = mask.evaluate(q.shape[2], k.shape[2], "cpu")
    k, v = (repeat_kv(x, q.shape[1]) for x in (k, v))
    y = ((q @ k.mT) * SCALE).masked_fill(~allowed, -torch.inf).softmax(-1) @ v
    return y if fully_masked is None else y.masked_fill(fully_masked, 0.0)


def tiles_for(mask, queries=N, keys=N) -> Tiles:
    tiles = tiles_of(mask, queries, keys, 1000, 2)
    assert tiles is not None
    return tiles


def assert_equal(mask, queries=N, keys=N, tolerance=1e-12, **options):
    parts = qkv(queries, keys, **options)
    y, expected = tiled_attention(*parts, tiles_for(mask, queries, keys), SCALE), dense(*parts, mask)
    torch.testing.assert_close(y, expected, atol=tolerance, rtol=0)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)
    for ours, theirs in zip(*(torch.autograd.grad(x, parts, gradient) for x in (y, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=10 * tolerance, rtol=0)


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("name", MASKS)
def test_outputs_and_gradients_are_those_of_all_pairs(name, size, monkeypatch):
    monkeypatch.setattr(block_sparse, "QUERIES", (size,))
    assert_equal(MASKS[name])


@pytest.mark.parametrize("groups", [4, 1])
@pytest.mark.parametrize("name", ["longformer", "padded bigbird"])
def test_shared_key_heads(name, groups):
    assert_equal(MASKS[name], groups=groups)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, N), (70, N), (N, 90)])
def test_any_number_of_queries_and_keys(queries, keys):
    """Queries are the last positions; those before the first key see none of a window."""
    for mask in (Window(20, 5), Window(9, 9) | GlobalTokensMask(2), STRIDED):
        assert_equal(mask, queries, keys)


def test_single_precision():
    for name in ("local", "bigbird", "causal strided"):
        assert_equal(MASKS[name], tolerance=2e-6, dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_gradients_in_single(dtype):
    """A global key gets a gradient from each tile; sums in half precision would lose those of the last."""
    mask = Window(8, 8) | GlobalTokensMask(1)
    q, k, v = (x.detach().requires_grad_() for x in qkv(4096, 4096, 2, 2, dtype))
    grads = torch.autograd.grad(tiled_attention(q, k, v, tiles_for(mask, 4096, 4096), SCALE).sum(), (k, v))
    q, k, v = (x.detach().double().requires_grad_() for x in (q, k, v))
    exact = torch.autograd.grad(tiled_attention(q, k, v, tiles_for(mask, 4096, 4096), SCALE).sum(), (k, v))
    for ours, theirs in zip(grads, exact, strict=True):
        error = (ours[:, :, 0].double() - theirs[:, :, 0]).abs().max() / theirs[:, :, 0].abs().max()
        assert ours.dtype == dtype and error < 0.01


def test_rows_without_keys_are_zeros_with_zero_gradients():
    mask = MASKS["rows without keys"]
    q, k, v = qkv()
    y = tiled_attention(q, k, v, tiles_for(mask), SCALE)
    assert not y[:, :, :101].any() and y[:, :, 101:].all()
    grads = torch.autograd.grad(y.sum(), (q, k, v))
    assert not any(grad[:, :, :101].any() for grad in grads) and all(grad.isfinite().all() for grad in grads)
    nothing = Window(2, 2) & PaddingMask(torch.zeros(2, N))
    assert not tiled_attention(q, k, v, Tiles(tuple(tiles_for(nothing).tiles)), SCALE).any()


def pairs(mask, n, **options):
    """Pairs that are computed, and pairs that the mask allows."""
    tiles = tiles_of(mask, n, n, 10**6, 1)
    assert tiles is not None
    size = [
        [len(range(*x.indices(n))) if isinstance(x, slice) else len(x) for x in tile[1:3]]
        for tile in tiles.tiles + tiles.more
    ]
    return sum(q * k for q, k in size)


@pytest.mark.parametrize(
    ("mask", "most"),
    [
        (Window(256, 256), 1.13),
        (CAUSAL & Window(255, 0), 1.25),
        (Window(64, 64) | GlobalTokensMask(1), 1.6),
        (Window(64, 64) | GlobalTokensMask(64) | RandomBlocks(64, 2), 1.35),
        (CAUSAL & DocumentMask(torch.arange(4096)[None] // 512), 1.15),
        (Window2D((64, 64), 4, 4), 3.3),
        (WindowPartition(8, 4, (64, 64)), 4.0),
        (WindowPartition(64, 0), 1.0),
        (Window(240, 240) & Strided(4), 1.6),
        (NeighborBlocks(64), 1.0),
        (Window(64, 64) | Strided(64), 2.4),
        (CAUSAL & (Window(511, 0) | Strided(256)), 1.6),
        (CAUSAL, 1.05),
    ],
    ids=str,
)
def test_few_more_pairs_are_computed_than_the_mask_allows(mask, most):
    assert pairs(mask, 4096) <= most * int(mask.dense(4096, 4096).sum())


def test_cost_grows_with_the_length_and_not_with_its_square():
    for mask in (Window(100, 100), Window(50, 50) | GlobalTokensMask(1), Window(99, 99) | Strided(1 << 10)):
        assert pairs(mask, 16384) < 4.2 * pairs(mask, 4096)


def test_a_mask_is_never_evaluated_for_all_pairs():
    class Counted(Window):
        total = largest = 0

        def __call__(self, b, h, q, k):
            values = super().__call__(b, h, q, k)
            Counted.total, Counted.largest = Counted.total + values.numel(), max(Counted.largest, values.numel())
            return values

    assert tiles_of(Counted(50, 50), 8192, 8192, 10**6, 1) is not None
    assert Counted.total < 8192 * 500 and Counted.largest <= 256 * 512


def test_strided_masks_are_never_evaluated_for_all_pairs():
    class Counted(Strided):
        total = 0

        def __call__(self, b, h, q, k):
            values = super().__call__(b, h, q, k)
            Counted.total += values.numel()
            return values

    assert tiles_of(Window(50, 50) | Counted(128), 8192, 8192, 10**6, 1) is not None
    assert Counted.total < 8192 * 300


def test_windows_are_slices_that_share_one_table():
    tiles = tiles_for(Window(64, 64), 2048, 2048).tiles
    assert all(isinstance(tile.keys, slice) and isinstance(tile.queries, slice) for tile in tiles)
    assert len({id(tile.allowed) for tile in tiles}) <= 3  # the first, the last, and all others


def test_tiles_of_masks_without_tensors_are_kept():
    assert tiles_for(Window(9, 9)) is tiles_for(Window(9, 9)) is tiles_for(MaskView(Window(9, 9)))
    assert tiles_for(Window(9, 9)) is not tiles_for(Window(9, 8))
    documents = MASKS["documents"]
    assert tiles_for(documents) is not tiles_for(documents)
    assert block_masks.size_in_bytes(tiles_for(MASKS["bigbird"])) > 1000


def kernel_of(mask, n=2048, *, bias=None, dropout=0.0, window=64):
    q = torch.empty(1, 4, n, 64)
    return explain_kernel(q, q, q, mask, bias, dropout, Window(window, window)).kernel


def test_when_attention_is_computed_in_tiles(monkeypatch):
    monkeypatch.undo()
    assert kernel_of(None) == "tiles"
    assert kernel_of(None, 256) == "flash"  # short: a table is as fast
    assert kernel_of(None, window=1900) == "flash"  # few pairs are masked
    assert kernel_of(None, bias=TensorBias(torch.zeros(1, 1, 2048, 2048))) == "flash"  # a table already
    assert kernel_of(None, bias=ALiBi(4)) == kernel_of(None, dropout=0.1) == "tiles"
    assert kernel_of(torch.ones(1, 4, 2048, 2048, dtype=torch.bool).tril()) == "flash"  # a table for each head

    class Own(Mask):
        def __call__(self, b, h, q, k):
            return (q - k) % 7 < 3

    assert kernel_of(Own() & CAUSAL, 1024) == "tiles"  # the bounds of its other parts hold
    with sdpa_kernel(SDPBackend.MATH):  # a user has switched off the kernel of tiles
        assert kernel_of(None) == "math"


def test_attend_takes_tiles_and_all_layers_share_them(monkeypatch):
    built = []
    monkeypatch.setattr(
        block_sparse, "costs_of", lambda *args, real=block_sparse.costs_of: built.append(1) or real(*args)
    )
    q, k, v = qkv(dtype=torch.float32)
    keep = torch.ones(2, N)
    keep[0, 200:] = 0
    view = Context(CAUSAL).for_forward(N, keep=keep.bool()).mask
    for _ in range(3):
        y = attend(q, k, v, view, None, SCALE, 0.0, Window(40, 0))
    assert len(built) == 1
    expected = F.scaled_dot_product_attention(
        q, *(repeat_kv(x, 4) for x in (k, v)), (view & Window(40, 0)).dense(N, N), scale=SCALE
    )
    torch.testing.assert_close(y[0, :, :200], expected[0, :, :200], atol=2e-6, rtol=0)
    torch.testing.assert_close(y[1], expected[1], atol=2e-6, rtol=0)


def test_strided_inputs_and_models_that_are_compiled():
    q, k, v = (x.detach() for x in qkv(dtype=torch.float32))
    odd = [torch.stack([x, x], -1)[..., 0] for x in (q, k, v)]
    tiles = tiles_for(Window(30, 30))
    torch.testing.assert_close(tiled_attention(*odd, tiles, SCALE), tiled_attention(q, k, v, tiles, SCALE))
    window = Window(30, 30)
    compiled = torch.compile(lambda *parts: attend(*parts, window, None, SCALE), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), tiled_attention(q, k, v, tiles, SCALE), atol=2e-6, rtol=0)


def test_queries_in_two_tiles_in_half_precision():
    q, k, v = qkv(dtype=torch.bfloat16)
    mask = CAUSAL & STRIDED
    y, expected = tiled_attention(q, k, v, tiles_for(mask), SCALE), dense(*(x.double() for x in (q, k, v)), mask)
    assert y.dtype == torch.bfloat16 and (y.double() - expected).abs().max() < 0.02
    assert all(x.dtype == torch.bfloat16 for x in torch.autograd.grad(y.float().sum(), (q, k, v)))


def test_strided_attention_of_long_rows_is_computed_in_tiles(monkeypatch):
    monkeypatch.undo()
    q = torch.empty(1, 4, 2048, 64)
    for pattern in (Window(64, 64) | Strided(64), CAUSAL & (Window(127, 0) | Strided(128))):
        assert explain_kernel(q, q, q, None, None, 0.0, pattern).kernel == "tiles"
    assert explain_kernel(q, q, q, None, None, 0.0, Window(900, 900) | Strided(3)).kernel == "flash"


@pytest.mark.parametrize("fused", [False, True])
def test_all_tokens_are_copied_once_and_not_for_each_tile(fused: bool):
    """Parts of the output of one layer for q, k and v, of which index_select would copy all for a tile."""
    tiles = tiles_for(Window(20, 20) | GlobalTokensMask(3))
    assert len(tiles.tiles) >= 3
    outputs = torch.randn(1, N, 3 * 4 * DIM, requires_grad=True)
    parts = [x.unflatten(-1, (4, DIM)).transpose(1, 2) for x in outputs.chunk(3, -1)]
    parts = parts if fused else [x.transpose(1, 2).contiguous().transpose(1, 2) for x in parts]
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True, acc_events=True
    ) as profiler:
        y = tiled_attention(*parts, tiles, SCALE)
        grads = torch.autograd.grad(y, parts, torch.ones(1, 4, N, DIM))
    whole = [e for e in profiler.events() if e.name == "aten::copy_" and e.input_shapes[0] == [1, N, 4, DIM]]
    assert len(whole) <= (3 if fused else 0) + 1  # and the gradient of the output
    exact = torch.autograd.grad(dense(*parts, Window(20, 20) | GlobalTokensMask(3)).sum(), parts)
    torch.testing.assert_close(grads, exact, atol=1e-5, rtol=1e-4)
