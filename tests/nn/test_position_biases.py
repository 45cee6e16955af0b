import copy

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from zoo.nn import CAUSAL, ALiBi, CoreSpec, SoftmaxAttention, T5RelativeBias, TensorBias
from zoo.nn.position_biases import BiasView, as_bias


def test_alibi_slopes_are_the_published_ones():
    eight = [2.0**-i for i in range(1, 9)]
    assert ALiBi(8).slopes() == pytest.approx(eight)
    assert ALiBi(12).slopes() == pytest.approx([*eight, 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])
    assert all(len(ALiBi(n).slopes()) == n for n in range(1, 20))


@pytest.mark.parametrize("heads", [6, 8, 12])
def test_alibi_is_blooms_up_to_what_softmax_ignores(heads):
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    future = ~CAUSAL.dense(9, 9)[0]
    bloom = build_alibi_tensor(torch.ones(1, 9), heads, torch.float32).view(heads, 1, 9).expand(-1, 9, -1)
    ours, theirs = (b.masked_fill(future, -torch.inf).softmax(-1) for b in (ALiBi(heads).dense(9, 9)[0], bloom))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_alibi_is_symmetric():
    dense = ALiBi(2).dense(4, 4)[0]
    assert torch.equal(dense, dense.mT)
    assert dense[0, 0].tolist() == pytest.approx([0, -1 / 16, -2 / 16, -3 / 16])


def test_alibi_is_mpts_in_its_last_row():
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    assert torch.equal(ALiBi(8).dense(1, 9)[0], build_mpt_alibi_tensor(8, 9).view(8, 1, 9))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("count", "far"), [(32, 128), (16, 64), (8, 20)])
def test_buckets_are_t5s(bidirectional, count, far):
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-200, 201)
    theirs = T5Attention._relative_position_bucket(distance, bidirectional, count, far)
    ours = T5RelativeBias(torch.zeros(count, 2), bidirectional, far).bucket(distance)
    assert torch.equal(ours, theirs)


def test_buckets_look_up_their_table():
    table = torch.randn(32, 3)
    bias = T5RelativeBias(table)
    dense = bias.dense(140, 140)
    assert dense.shape == (1, 3, 140, 140)
    for q, k in ((0, 0), (3, 1), (1, 3), (139, 0), (0, 139)):
        assert torch.equal(dense[0, :, q, k], table[bias.bucket(torch.tensor(k - q))])


def test_biases_add_up_and_end_with_the_last_queries():
    values = torch.randn(2, 4, 7, 7)
    bias = ALiBi(4) + TensorBias(values)
    whole = bias.dense(7, 7)
    assert bias.batch == 2 and bias.heads == 4
    torch.testing.assert_close(whole, ALiBi(4).dense(7, 7) + values, atol=0, rtol=0)
    assert torch.equal(bias.dense(3, 7), whole[:, :, 4:])
    assert ALiBi(4) == copy.deepcopy(ALiBi(4)) != ALiBi(8)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    "bias", [ALiBi(4), T5RelativeBias(torch.randn(32, 4)), ALiBi(4) + TensorBias(torch.randn(2, 1, 6, 6))]
)
def test_a_bias_is_a_score_mod(bias):
    q, k, v = torch.randn(3, 2, 4, 6, 16)
    ours = SoftmaxAttention(CoreSpec(heads=4, kv_heads=4, head_dim=16))(q, k, v, None, bias)
    torch.testing.assert_close(ours, flex_attention(q, k, v, score_mod=bias.score_mod), atol=1e-6, rtol=0)


def test_a_view_uses_positions():
    keep = torch.tensor([[0, 1, 1, 0, 1]])
    positions = (keep.cumsum(1) - 1).clamp(min=0)
    real = keep[0].nonzero()[:, 0]
    seen = BiasView(ALiBi(2), positions, positions).dense(5, 5)[0][:, real][:, :, real]
    assert torch.equal(seen, ALiBi(2).dense(3, 3)[0])


def test_a_view_evaluates_once():
    class Counted(TensorBias):
        calls = 0

        def __call__(self, *index):
            Counted.calls += 1
            return super().__call__(*index)

    view = BiasView(Counted(torch.randn(1, 2, 4, 4)))
    assert view.dense(4, 4) is view.dense(4, 4) and Counted.calls == 1
    forgetful = BiasView(Counted(torch.randn(1, 2, 4, 4)), cache=None)
    assert torch.equal(forgetful.dense(4, 4), forgetful.dense(4, 4)) and Counted.calls == 3


def test_tensors_become_biases():
    values = torch.randn(4, 4)
    assert as_bias(None) is None
    assert torch.equal(as_bias(values).dense(4, 4)[0, 0], values)
    with pytest.raises(ValueError, match=r"torch.bool; pass masks as mask="):
        as_bias(torch.ones(4, 4, dtype=torch.bool))


def test_a_sum_of_biases_holds_for_the_last_queries_too():
    table = torch.randn(1, 2, 1, 6)  # the same for every query
    both = (ALiBi(2) + TensorBias(table)).dense(3, 6)
    torch.testing.assert_close(both, ALiBi(2).dense(3, 6) + table)
    given = torch.randn(1, 2, 3, 6)  # made for just these three queries
    torch.testing.assert_close((ALiBi(2) + TensorBias(given)).dense(3, 6), ALiBi(2).dense(3, 6) + given)


def test_a_sum_may_hide_keys_if_one_of_its_parts_may():
    hiding, plain = TensorBias(torch.zeros(1, 1, 3, 3)), ALiBi(2)
    assert (hiding + plain).hides and (plain + hiding).hides and not (plain + plain).hides
