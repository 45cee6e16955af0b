from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.nn import CAUSAL, MLP, Attention, BlockConfig, Context, CoreSpec, initialize, rotary
from zoo.nn.attention import FUSED_QKV_MIN_TOKENS
from zoo.nn.block import drop_path_scale
from zoo.nn.context import Groups
from zoo.nn.mlp import ACTIVATIONS

WIDTH = 16


def block(**options):
    spec = BlockConfig(width=WIDTH, heads=2, **options)
    return randomized(spec.block(0, 1))


def randomized(module):
    """Fresh norms are 1 and biases 0: swaps would pass."""
    initialize(module, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return module


def tokens(count=5):
    return torch.randn(3, count, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scaled", [None, 0.1])
@pytest.mark.parametrize("order", ["pre", "post", "parallel"])
def test_orders(order, scaled):
    made, x, shown = block(order=order, layer_scale=scaled), tokens(), Context(mask=CAUSAL)

    def mix(y):
        return made.mixer(y, shown) * (1 if scaled is None else made.scale1.gamma)

    def mlp(y):
        return made.mlp(y) * (1 if scaled is None else made.scale2.gamma)

    if order == "pre":
        y = x + mix(made.norm1(x))
        y = y + mlp(made.norm2(y))
    elif order == "post":
        y = made.norm1(x + mix(x))
        y = made.norm2(y + mlp(y))
    else:
        y = x + mix(made.norm1(x)) + mlp(made.norm1(x))
        assert made.norm2 is None
    torch.testing.assert_close(made(x, shown), y, atol=1e-6, rtol=0)


@pytest.mark.parametrize("order", ["pre", "post"])
def test_cross_attention_is_between_mixer_and_mlp(order):
    spec = BlockConfig(width=WIDTH, heads=2, order=order)
    made = randomized(spec.block(0, 1, cross="softmax", memory_width=12))
    x, memory = tokens(), torch.randn(3, 4, 12)
    shown = Context(memory=memory)
    if order == "pre":
        y = x + made.mixer(made.norm1(x), shown)
        y = y + made.cross(made.cross_norm(y), shown, None, memory)
        y = y + made.mlp(made.norm2(y))
    else:
        y = made.norm1(x + made.mixer(x, shown))
        y = made.cross_norm(y + made.cross(y, shown, None, memory))
        y = made.norm2(y + made.mlp(y))
    torch.testing.assert_close(made(x, shown), y, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"parallel.*use order='pre'"):
        BlockConfig(width=WIDTH, heads=2, order="parallel").block(0, 1, cross="softmax")


def test_cross_attention_of_a_decoder_is_not_causal():
    spec = BlockConfig(width=WIDTH, heads=2, causal=True, attention="local")
    made = spec.block(0, 1, cross={"kind": "local", "window": 2})
    assert made.mixer.core.spec.causal and not made.cross.core.spec.causal


def test_the_final_norm_follows_pre_norm_blocks():
    assert BlockConfig(width=8, heads=2).stack(1).norm is not None
    assert BlockConfig(width=8, heads=2, order="post").stack(1).norm is None
    assert isinstance(BlockConfig(width=8, heads=2, norm="rms").stack(1).norm, nn.RMSNorm)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("gated", [False, True])
def test_mlp(act, gated):
    torch_acts = {
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
        "elu": F.elu,
        "relu": F.relu,
        "silu": F.silu,
        "tanh": torch.tanh,
    }
    mlp, x = MLP(8, 12, act, gated), torch.randn(2, 3, 8)
    inner = torch_acts[act](mlp.gate(x)) * mlp.up(x) if gated else torch_acts[act](mlp.up(x))
    torch.testing.assert_close(mlp(x), mlp.down(inner))
    with pytest.raises(ValueError, match="act='gelo' is unknown; did you mean 'gelu'"):
        MLP(8, 12, "gelo")


def test_drop_path_skips_whole_samples_and_keeps_the_mean():
    made, x = block(drop_path=0.5), torch.randn(1, 5, WIDTH).expand(400, -1, -1)
    made.drop_path = 0.5
    exact = made.eval()(x[:1], Context())
    torch.manual_seed(0)
    made.train()
    ones = torch.ones(4000, 2, 3)
    kept = drop_path_scale(ones, 0.25, None)
    assert kept.shape == (4000, 1, 1) and kept.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert kept.mean().item() == pytest.approx(1, abs=0.03)
    y = made(x, Context())
    branches = {tuple(row.flatten()[:4].tolist()) for row in y.detach().round(decimals=4)}
    assert len(branches) == 4  # each sample: neither branch, one, the other, both
    assert (y[:1] - exact).abs().max() > 0


def test_drop_path_is_sampled_per_row_of_packed_tokens():
    groups = Groups(((2, 3), (1, 5)), torch.arange(11))
    y = torch.ones(1, 11, 4)
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        kept = drop_path_scale(y, 0.5, groups)
        assert kept.shape == (1, 11, 1)
        rows = kept[0, :, 0].split([3, 3, 5])
        assert all((row == row[0]).all() for row in rows)
        seen.add(tuple(float(row[0]) for row in rows))
    assert len(seen) == 8


@pytest.mark.parametrize("scaled", [None, 0.1])
def test_drop_path_grows_with_depth_and_dropout_is_off_in_eval(scaled):
    stack = BlockConfig(width=8, heads=2, drop_path=0.3, dropout=0.5, layer_scale=scaled).stack(4)
    assert [b.drop_path for b in stack] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert BlockConfig(width=8, heads=2, drop_path=0.3).stack(1)[0].drop_path == 0
    initialize(stack, 0)
    x = torch.randn(2, 3, 8)
    assert torch.equal(stack.eval()(x), stack(x))
    assert not torch.equal(stack.train()(x), stack(x))


def test_layer_scale_starts_at_the_given_value():
    made = BlockConfig(width=8, heads=2, layer_scale=1e-4).block(0, 1)
    initialize(made, 0)
    assert (made.scale1.gamma == 1e-4).all() and (made.scale2.gamma == 1e-4).all()


def attention(width=WIDTH, **options):
    spec = {k: options.pop(k) for k in ("heads", "kv_heads", "head_dim") if k in options}
    made = Attention(width, CoreSpec(**{"heads": 4, "kv_heads": 2, "head_dim": 4, **spec}), **options)
    initialize(made, 0)
    return made


def test_biases_of_projections():
    made = attention(bias=True, k_bias=False, out_bias=False)
    present = [getattr(made, part).bias is not None for part in ("q", "k", "v", "out")]
    assert present == [True, False, True, False]
    assert made.k.weight.shape == (8, WIDTH) and made.q.weight.shape == (16, WIDTH)
    with pytest.raises(ValueError, match=r"heads=4.*kv_heads=3.*divisor"):
        attention(kv_heads=3)


@pytest.mark.parametrize("biases", [{}, {"k_bias": False}, {"bias": False}])
def test_one_product_for_q_k_and_v_is_three(biases):
    made, x = attention(**biases), tokens(FUSED_QKV_MIN_TOKENS)
    apart = [made.split(part(x)) for part in (made.q, made.k, made.v)]
    for together, alone in zip(made.project_heads(x), apart, strict=True):
        torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_whatever_wraps_a_projection_is_called():
    """Adapters, hooks and parametrizations stand between a Linear and its weight."""
    x = tokens(FUSED_QKV_MIN_TOKENS)  # of which plain layers compute one product
    made = attention()
    made.q.register_forward_hook(lambda module, args, out: out + 1)
    torch.testing.assert_close(made.project_heads(x)[0], made.split(F.linear(x, made.q.weight, made.q.bias) + 1))

    class Adapter(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    made = attention()
    made.v = Adapter(WIDTH, 8)
    torch.testing.assert_close(made.project_heads(x)[2], made.split(made.v(x)))
    made = attention()
    made.q.forward = partial(lambda forward, x: forward(x) * 3, made.q.forward)  # as accelerate's hooks do
    torch.testing.assert_close(made.project_heads(x)[0], made.split(F.linear(x, made.q.weight, made.q.bias) * 3))
    made = attention()
    nn.utils.parametrizations.weight_norm(made.k)
    torch.testing.assert_close(made.project_heads(x)[1], made.split(made.k(x)))


def test_queries_and_keys_are_normalized_before_rotation():
    made, x = attention(qk_norm=nn.RMSNorm), tokens()
    with torch.no_grad():
        made.q_norm.weight.copy_(torch.rand(4) + 0.5)
        made.k_norm.weight.copy_(torch.rand(4) + 0.5)
    turn = rotary(torch.arange(5), 4)
    q, k, v = (made.split(part(x)) for part in (made.q, made.k, made.v))
    y = made.core(turn(made.q_norm(q)), turn(made.k_norm(k)), v, CAUSAL)
    y = made.out(y.transpose(1, 2).flatten(2))
    torch.testing.assert_close(made(x, Context(mask=CAUSAL, rotary=turn)), y, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 30, "heads": 4}, r"width=30 is not divisible by heads=4.*head_dim"),
        ({"width": 32, "heads": 4, "kv_heads": 3}, r"heads=4 cannot share kv_heads=3"),
    ],
)
def test_sizes_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        BlockConfig(**options)
    with pytest.raises(ValueError, match=r"heads=4 cannot share kv_heads=3"):
        CoreSpec(heads=4, kv_heads=3, head_dim=8)
    with pytest.raises(ValueError, match=r"head_dim=2.5: expected a positive integer"):
        CoreSpec(heads=4, kv_heads=4, head_dim=2.5)
    assert BlockConfig(width=30, heads=4, head_dim=8).core_spec(0, 1).head_dim == 8
