import pytest
import torch
import torch.nn.functional as F
from nn_cases import BATCH, DIM, HEADS, TOKENS, qkv
from torch.nn.attention import SDPBackend, sdpa_kernel

from zoo.nn import CAUSAL, NO_MASK, Prefix, TensorBias, Window, sdpa
from zoo.nn.kernels import PLAIN_MAX_LENGTH, PLAIN_MIN_KEYS
from zoo.nn.sdpa import (
    attend,
    attend_to_all,
    is_causal,
    plain_attention,
    repeat_kv,
    single_query,
)

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}
SCALE = 0.3


def reference(q, k, v, allowed=None):
    """Torch's own, in double precision, from its slow and simple backend."""
    q, k, v = (repeat_kv(t, HEADS).double() for t in (q, k, v))
    if allowed is not None and allowed.dtype != torch.bool:
        allowed = allowed.double()
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v, allowed, scale=SCALE)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("groups", [4, 2, 1])
def test_all_forms_compute_the_same(dtype, groups):
    torch.manual_seed(0)  # a rare score in float16 exceeds the tolerance
    table = torch.rand(BATCH, 1, TOKENS, TOKENS) > 0.4
    table[..., 0] = True
    bias = torch.randn(1, HEADS, TOKENS, TOKENS).to(dtype)
    for queries in (1, TOKENS):
        q, k, v = qkv(groups=groups, queries=queries, dtype=dtype)
        for allowed in (None, table[:, :, -queries:], bias[:, :, -queries:]):
            expected = reference(q, k, v, allowed).to(dtype)
            forms = [plain_attention(q, k, v, allowed, SCALE)]
            if queries == 1:
                forms.append(single_query(q, k, v, allowed, SCALE, 0.0))
            for y in forms:
                assert y.dtype == dtype
                torch.testing.assert_close(y, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
        for mask in (NO_MASK, CAUSAL, Window(2, 2), CAUSAL | Prefix(3)):
            y = attend(q, k, v, mask, TensorBias(bias), SCALE)
            allowed = bias[:, :, -queries:].masked_fill(~mask.dense(queries, TOKENS), -torch.inf)
            torch.testing.assert_close(
                y, reference(q, k, v, allowed).to(dtype), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
            )


@pytest.fixture
def calls(monkeypatch):
    """Which form was called, and with which arguments torch's kernel was."""
    made = []
    fused = F.scaled_dot_product_attention

    def spy(name, function):
        def wrapped(*args, **kwargs):
            made.append((name, args, kwargs))
            return function(*args, **kwargs)

        return wrapped

    monkeypatch.setattr(sdpa, "plain_attention", spy("plain_attention", plain_attention))
    monkeypatch.setattr(sdpa, "single_query", spy("single_query", single_query))
    monkeypatch.setattr(F, "scaled_dot_product_attention", spy("sdpa", fused))
    return made


def chosen(calls, q, k, v, mask=NO_MASK, bias=None, dropout=0.0):
    calls.clear()
    attend(q, k, v, mask, bias, SCALE, dropout)
    return calls[0]


def test_the_choice_of_kernel(calls):
    q, k, v = qkv()
    assert chosen(calls, q, k, v)[0] == "sdpa"
    name, args, _ = chosen(calls, q, k, v, CAUSAL)
    assert name == "sdpa" and args[3] is None and args[5] is True  # is_causal in place of a mask
    name, args, _ = chosen(calls, q, k, v, Window(2, 2))
    assert name == "sdpa" and args[3].dtype == torch.bool and not args[5]
    assert chosen(calls, q, k, v, Window(99, 99))[1][3] is None  # hides nothing: no mask

    half = [t.bfloat16() for t in (q, k, v)]
    assert chosen(calls, *half)[0] == "plain_attention"
    assert chosen(calls, half[0][:, :, -1:], *half[1:])[0] == "sdpa"  # one row: there is little to save
    long = [t.repeat(1, 1, PLAIN_MAX_LENGTH // TOKENS + 1, 1) for t in half]
    assert chosen(calls, *long)[0] == "sdpa"

    learned = TensorBias(torch.zeros(1, 1, TOKENS, TOKENS, requires_grad=True))
    assert chosen(calls, q, k, v, bias=learned)[0] == "plain_attention"
    assert chosen(calls, q, k, v, bias=TensorBias(torch.zeros(1, 1, TOKENS, TOKENS)))[0] == "sdpa"
    assert chosen(calls, q, k, v, dropout=0.5)[0] == "plain_attention"

    q, k, v = qkv(groups=2, queries=1)
    assert chosen(calls, q, k, v)[0] == "single_query"
    q, k, v = qkv(groups=2)
    assert chosen(calls, q, k, v)[2]["enable_gqa"] is True


def test_a_causal_mask_ends_with_the_last_key():
    """Torch's `is_causal` starts at the top left; decoding a few tokens with a cache needs the lower right."""
    q, k, v = qkv(queries=3)
    whole_q = torch.cat([torch.randn(BATCH, HEADS, TOKENS - 3, DIM), q], 2)
    torch.testing.assert_close(
        attend(q, k, v, CAUSAL, None, SCALE), attend(whole_q, k, v, CAUSAL, None, SCALE)[:, :, -3:], atol=1e-6, rtol=0
    )


def test_a_causal_window_is_a_causal_mask_only_if_it_reaches_all_earlier_keys():
    assert [is_causal(CAUSAL & Window(left, 0), 5, 5) for left in (1, 3, 4, 9)] == [False, False, True, True]
    assert not is_causal(Window(9, 1), 5, 5) and not is_causal(CAUSAL, 3, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("keys", [1, PLAIN_MIN_KEYS - 1, PLAIN_MIN_KEYS, 200])
def test_one_token_uses_the_kernel_of_attend(dtype, heads, keys):
    q = torch.randn(2, heads[0], 1, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    k, v = torch.randn(2, 2, heads[1], keys, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.equal(attend_to_all(q, k, v, SCALE), attend(q, k, v, CAUSAL, None, SCALE))
