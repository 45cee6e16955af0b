"""Attention in tiles with position biases, dropout and a soft cap, against the dense definition."""

import pytest
import torch
from tensor_sizes import TensorSizes
from tile_cases import KEEP, MASKS, PLACES, SCALE, N, qkv
from torch.utils.checkpoint import checkpoint

from zoo.inference.cost import fused
from zoo.nn import CAUSAL, ALiBi, T5RelativeBias, TensorBias, Window
from zoo.nn.masks import NO_MASK, GlobalTokensMask, Mask, MaskView, RandomBlocks, Strided
from zoo.nn.position_biases import Bias, BiasOfHeads, BiasView
from zoo.nn.sdpa import attend, explain_kernel, repeat_kv
from zoo.nn.sparse import block_sparse
from zoo.nn.sparse.block_sparse import tiles_of
from zoo.nn.sparse.tiled_attention import tiled_attention
from zoo.nn.sparse.tiled_plain import Dropout, PlainTiledAttention

TABLE = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
PATTERNS = {
    "local": CAUSAL & Window(15, 0),
    "longformer": Window(20, 20) | GlobalTokensMask(2),
    "bigbird": CAUSAL & (Window(16, 16) | GlobalTokensMask(16) | RandomBlocks(16, 2)),
    "two tiles for a query": MASKS["causal strided"],
    "rows without keys": MASKS["rows without keys"],
    "padded": MaskView(CAUSAL & Window(30, 0) | GlobalTokensMask(3), PLACES, PLACES, KEEP),
    "no mask": NO_MASK,
}


@pytest.fixture(autouse=True)
def always_in_tiles(monkeypatch):
    """At any length, and where they are not the faster choice."""
    monkeypatch.setattr(block_sparse, "MIN_PAIRS", 0)
    monkeypatch.setattr(block_sparse, "TABLE", 1e9)


def biases(name: str, table: torch.Tensor) -> Bias | None:
    bias = {
        "none": None,
        "alibi": ALiBi(4),
        "t5": T5RelativeBias(table, True, 40),
        "t5, one direction": T5RelativeBias(table, False, 40),
        "sum": T5RelativeBias(table, True, 40) + ALiBi(4),
        "of heads": BiasOfHeads(T5RelativeBias(table, True, 40), (3, 1, 1, 0)),
    }[name]
    return bias


def dense(q, k, v, mask, bias, factors=None, softcap=None):
    allowed, fully_masked = mask.evaluate(q.shape[2], k.shape[2], "cpu")
    k, v = (repeat_kv(x, q.shape[1]) for x in (k, v))
    scores = q @ k.mT * SCALE
    scores = scores if softcap is None else softcap * (scores / softcap).tanh()
    scores = scores if bias is None else scores + bias.dense(q.shape[2], k.shape[2])
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    y = (weights if factors is None else weights * factors) @ v
    return y if fully_masked is None else y.masked_fill(fully_masked, 0.0)


def tiles_for(mask: Mask, queries: int = N, keys: int = N):
    tiles = tiles_of(mask, queries, keys, 1000, 2)
    assert tiles is not None
    return tiles


def assert_same(ours, theirs, inputs, tolerance=1e-11):
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)
    gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2), dtype=ours.dtype)
    inputs = [x for x in inputs if x.requires_grad]
    for a, b in zip(*(torch.autograd.grad(x, inputs, gradient) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, atol=30 * tolerance, rtol=0)


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("bias", ["none", "alibi", "t5", "t5, one direction", "sum", "of heads"])
@pytest.mark.parametrize("name", PATTERNS)
def test_outputs_and_gradients_are_those_of_all_pairs(name, bias, softcap):
    table, mask = TABLE.clone().requires_grad_(bias not in ("none", "alibi")), PATTERNS[name]
    added = biases(bias, table)
    if added is not None and isinstance(mask, MaskView):
        added = BiasView(added, mask.q, mask.k)
    q, k, v = qkv()
    ours = tiled_attention(q, k, v, tiles_for(mask), SCALE, added, 0.0, softcap)
    assert_same(ours, dense(q, k, v, mask, added, None, softcap), (q, k, v, table))


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(70, N), (N, 90), (1, 1)])
def test_any_number_of_queries_and_keys(queries, keys, learned):
    table = TABLE.clone().requires_grad_(learned)
    mask, bias = Window(20, 5) | GlobalTokensMask(1), T5RelativeBias(table)
    for groups in (1, 4):
        q, k, v = qkv(queries, keys, groups=groups)
        ours = tiled_attention(q, k, v, tiles_for(mask, queries, keys), SCALE, bias)
        assert_same(ours, dense(q, k, v, mask, bias), (q, k, v, table))


def kept_links(tiles, rate, seed, rows=2, heads=4):
    """The factors of all pairs [B, H, N, M], sampled as the tiles do."""
    dropout, factors = Dropout(rate, seed), torch.zeros(rows, heads, N, N, dtype=torch.float64)
    for tile in tiles.tiles + tiles.more:
        q, k = (torch.arange(x.start, x.stop) if isinstance(x, slice) else x for x in (tile.queries, tile.keys))
        own = dropout(torch.empty(rows if tile.row is None else 1, heads, len(q), len(k), dtype=torch.float64))
        if tile.allowed is not None:
            own = own * tile.allowed
        if tile.fully_masked is not None:
            own = own * ~tile.fully_masked
        part = factors if tile.row is None else factors[tile.row : tile.row + 1]
        part[:, :, q[:, None], k] += own
    return factors


@pytest.mark.parametrize("name", PATTERNS)
def test_dropout_drops_the_same_links_forward_and_backward(name, monkeypatch):
    """Against the dense computation with these links; and each link is dropped with the given rate."""
    mask, table, rate = PATTERNS[name], TABLE.clone().requires_grad_(), 0.4
    bias = T5RelativeBias(table)
    seeds = []
    monkeypatch.setattr(
        PlainTiledAttention,
        "apply",
        lambda *args, real=PlainTiledAttention.apply: seeds.append(args[3].seed) or real(*args),
    )
    (q, k, v), tiles = qkv(), tiles_for(mask)
    torch.manual_seed(5)
    ours = tiled_attention(q, k, v, tiles, SCALE, bias, rate)
    factors = kept_links(tiles, rate, seeds[0])
    assert_same(ours, dense(q, k, v, mask, bias, factors), (q, k, v, table))
    allowed = mask.dense(N, N)
    links = factors[allowed.expand_as(factors)]
    assert set(links.unique().tolist()) == {0.0, 1 / (1 - rate)}
    assert abs((links == 0).double().mean() - rate) < 0.02
    torch.manual_seed(5)
    assert torch.equal(ours, tiled_attention(q, k, v, tiles, SCALE, bias, rate))
    assert not torch.equal(ours, tiled_attention(q, k, v, tiles, SCALE, bias, rate))
    assert not tiled_attention(q, k, v, tiles, SCALE, bias, 1.0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision(dtype):
    mask = Window(20, 20) | GlobalTokensMask(2)
    q, k, v = qkv(dtype=dtype)
    table = TABLE.to(dtype).requires_grad_()
    exact = dense(*(x.double() for x in (q, k, v)), mask, T5RelativeBias(table.double()))
    for bias in (T5RelativeBias(table), T5RelativeBias(table.detach())):
        y = tiled_attention(q, k, v, tiles_for(mask), SCALE, bias)
        assert y.dtype == dtype and (y.double() - exact).abs().max() < (1e-5 if dtype == torch.float32 else 0.05)


def test_a_bias_that_only_its_table_has_is_not_added_in_tiles():
    class Own(Bias):
        def __init__(self, factor):
            self.factor = factor

        def __call__(self, b, h, q, k):
            return self.factor * (q - k).abs()

    q = torch.empty(1, 4, N, 16)
    kernel = {
        kind: explain_kernel(q, q, q, None, bias, 0.0, Window(9, 9)).kernel
        for kind, bias in {
            "fixed": Own(-0.1),
            "learned": Own(torch.tensor(-0.1, requires_grad=True)),
            "learned, in a sum": Own(torch.tensor(-0.1, requires_grad=True)) + ALiBi(4),
            "tensor": TensorBias(torch.zeros(1, 1, N, N)),
            "t5": T5RelativeBias(TABLE.float().requires_grad_()),
        }.items()
    }
    assert kernel["fixed"] == kernel["t5"] == "tiles"
    assert kernel["learned"] == kernel["learned, in a sum"] == "plain" and kernel["tensor"] == "flash"


@pytest.mark.parametrize("options", ["dropout", "alibi", "t5", "softcap"])
@pytest.mark.parametrize("name", ["local", "longformer", "bigbird"])
def test_time_and_memory_are_linear_in_the_length(name, options):
    mask, found = PATTERNS[name], []
    table = TABLE.float().requires_grad_()
    bias = biases(options, table) if options in ("alibi", "t5") else None
    dropout, softcap = 0.1 if options == "dropout" else 0.0, 5.0 if options == "softcap" else None
    for length in (1024, 2048):
        q, k, v = (torch.randn(1, 4, length, 8, requires_grad=True) for _ in range(3))
        attend(q, k, v, mask, bias, SCALE, dropout, softcap=softcap)  # the tiles are found
        with TensorSizes() as sizes:
            attend(q, k, v, mask, bias, SCALE, dropout, softcap=softcap).sum().backward()
        found.append(sizes)
    assert found[1].total <= (2.6 if name == "bigbird" else 2.2) * found[0].total
    assert found[1].largest <= 2.1 * found[0].largest


def test_strided_keys_have_a_bias_too():
    q, k, v = qkv()
    mask = CAUSAL & (Window(9, 9) | Strided(23))
    assert_same(tiled_attention(q, k, v, tiles_for(mask), SCALE, ALiBi(4)), dense(q, k, v, mask, ALiBi(4)), (q, k, v))


def test_a_recomputed_block_drops_the_same_links():
    """Activation checkpointing, with a learned bias: gradients as without it."""
    mask, inputs = Window(20, 20), [x.float().detach().requires_grad_() for x in qkv()]
    table = TABLE.float().requires_grad_()

    def run(*parts):
        return attend(*parts[:3], mask, T5RelativeBias(parts[3]), SCALE, 0.3)

    found = []
    for call in (run, lambda *parts: checkpoint(run, *parts, use_reentrant=False)):
        torch.manual_seed(0)
        y = call(*inputs, table)
        found.append([y, *torch.autograd.grad(y.square().sum(), [*inputs, table])])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("options", ["none", "dropout", "alibi", "t5", "softcap"])
def test_shapes_alone_as_for_the_cost_of_a_model(options):
    q, k, v = (x.to("meta").detach().requires_grad_() for x in qkv(dtype=torch.float32))
    bias = biases(options, TABLE.float().to("meta").requires_grad_()) if options in ("alibi", "t5") else None
    dropout, softcap = 0.1 if options == "dropout" else 0.0, 5.0 if options == "softcap" else None
    with fused():
        y = attend(q, k, v, MASKS["rows without keys"], bias, SCALE, dropout, softcap=softcap)
        y.sum().backward()
    assert y.is_meta and k.grad is not None and k.grad.shape == k.shape
