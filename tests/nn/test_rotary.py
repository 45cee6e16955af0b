import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_examples import examples

from zoo.nn import Attention, Context, CoreSpec, Rotary, rotary


def llama(length, dim, base):
    """transformers' tables (cos, sin) [1, N, P]."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = {"rope_type": "default", "rope_theta": base}
    config = LlamaConfig(hidden_size=4 * dim, num_attention_heads=4, head_dim=dim, rope_parameters=rope)
    return LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(length)[None])


@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_rotation_is_llamas(base):
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q, k = torch.randn(2, 2, 4, 30, 16)
    cos, sin = llama(30, 16, base)
    ours = rotary(torch.arange(30), 16, base)
    for theirs, mine in zip(apply_rotary_pos_emb(q, k, cos, sin), (ours(q), ours(k)), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_by_hand(interleaved):
    x = torch.randn(1, 1, 5, 8, dtype=torch.float64)
    y = rotary(torch.arange(5) + 3, 8, interleaved=interleaved)(x)
    for n in range(5):
        for i in range(4):
            a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + 4)
            angle = (n + 3) / 10000 ** (2 * i / 8)
            turned = complex(x[0, 0, n, a], x[0, 0, n, b]) * complex(math.cos(angle), math.sin(angle))
            assert complex(y[0, 0, n, a], y[0, 0, n, b]) == pytest.approx(turned, abs=1e-6)


def test_the_two_layouts_are_one_up_to_the_order_of_channels():
    x = torch.randn(1, 2, 6, 8)
    order = torch.arange(8).view(2, 4).mT.flatten()  # halves -> pairs
    halves, pairs = rotary(torch.arange(6), 8), rotary(torch.arange(6), 8, interleaved=True)
    torch.testing.assert_close(halves(x)[..., order], pairs(x[..., order]), atol=1e-6, rtol=0)


@settings(max_examples=examples(25), deadline=None)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 500), st.booleans())
def test_scores_depend_on_the_distance_alone(i, j, shift, interleaved):
    q, k = torch.randn(2, 1, 1, 2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def score(*places):
        turn = rotary(torch.tensor(places), 16, interleaved=interleaved)
        return (turn(q)[0, 0, 0] @ turn(k)[0, 0, 1]).item()

    assert score(i, j) == pytest.approx(score(i + shift, j + shift), abs=2e-4)


def test_partial_rotation_is_gpt_neox():
    x = torch.randn(2, 3, 7, 16)
    table = rotary(torch.arange(7), 4)
    y = table(x)
    assert torch.equal(y[..., 4:], x[..., 4:])
    torch.testing.assert_close(y[..., :4], table(x[..., :4].contiguous()), atol=1e-6, rtol=0)


def test_two_axes_rotate_separate_channels():
    grid = torch.cartesian_prod(torch.arange(3.0), torch.arange(4.0))  # [12, 2]: row, column
    x = torch.randn(1, 2, 12, 16, dtype=torch.float64)
    y = rotary(grid, 16)(x)
    for axis in range(2):
        channels = [8 * half + 4 * axis + i for half in range(2) for i in range(4)]  # pairs (i, i + 8)
        alone = rotary(grid[:, axis].long(), 8)(x[..., channels])
        torch.testing.assert_close(y[..., channels], alone, atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match=r"width=6: .*2 axes need a multiple of 4"):
        rotary(grid, 6)


def test_rows_may_have_different_positions():
    positions = torch.tensor([[0, 1, 2], [5, 6, 7]])
    x = torch.randn(2, 4, 3, 8)
    y = rotary(positions, 8)(x)
    for row in range(2):
        torch.testing.assert_close(y[row], rotary(positions[row], 8)(x[row : row + 1])[0], atol=1e-6, rtol=0)


def test_scaled_frequencies():
    frequencies = 0.5 / 10000 ** (torch.arange(0, 8, 2) / 8)
    x = torch.randn(1, 1, 4, 8)
    halved = rotary(torch.arange(4), 8, frequencies=frequencies)(x)
    torch.testing.assert_close(halved[:, :, ::2], rotary(torch.tensor([0, 1]), 8)(x[:, :, ::2]), atol=1e-6, rtol=0)


def test_tables_stay_in_single_precision():
    """In bfloat16 positions beyond 256 fall together: tables are never converted, and rotation is done in float32."""
    table = rotary(torch.arange(5000), 64)
    attention = Attention(64, CoreSpec(heads=1, kv_heads=1, head_dim=64)).to(torch.bfloat16)
    assert isinstance(table, Rotary) and table.cos.dtype == table.sin.dtype == torch.float32
    x = torch.randn(1, 1, 5000, 64).bfloat16()
    y = table(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, table(x.float()).bfloat16(), atol=0, rtol=0)
    tail = rotary(torch.arange(4990, 5000), 64)
    z = attention(torch.randn(1, 10, 64).bfloat16(), Context(rotary=tail))
    assert z.dtype == torch.bfloat16 and tail.cos.dtype == torch.float32
