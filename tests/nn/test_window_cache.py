"""A cache of bounded size decodes what the cache of all keys decodes."""

from dataclasses import replace

import pytest
import torch
from decoding_cases import BATCH, HEADS, WIDTH, context, decode, decoder, tokens
from nn_cases import KINDS

from zoo.nn import (
    CAUSAL,
    ALiBi,
    Context,
    Core,
    CoreSpec,
    DocumentMask,
    KVCache,
    PaddingMask,
    TensorBias,
    Window,
    initialize,
    rotary,
)
from zoo.nn.kv_cache import StackState
from zoo.nn.masks import And, GlobalTokensMask, Strided, Window2D, as_mask
from zoo.nn.sparse_attention import LocalAttention, Longformer
from zoo.nn.window_cache import MARGIN, WindowCache, reach_of

WINDOW, N = 4, 130  # several times as many tokens as the cache holds
LOCAL = {"kind": "local", "window": WINDOW}
LONGFORMER = {"kind": "longformer", "window": WINDOW, "tokens": 2}
CHUNKS = [[1] * N, [7] * 18 + [4], [60, 1, 1, 1, 50, 1, 1, 15], [1, 100, 1, 1, 27], [N]]


def full(stack, batch, like):
    """A state of caches that keep all keys."""
    state = stack.new_state(batch, 4, like)
    for block, layer in zip(stack, state, strict=True):
        layer.mixer = Core.new_state(block.mixer.core, batch, 4, like)
    return state


def bytes_of(state: StackState) -> int:
    found = 0
    for layer in state:
        slots = layer.mixer.slots
        tensors = [layer.mixer.k, layer.mixer.v, *([] if slots is None else [slots.columns, slots.dropped])]
        found += sum(t.untyped_storage().nbytes() for t in tensors)
    return found


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("position", ["none", "rope", "alibi", "buckets"])
@pytest.mark.parametrize("kind", [LOCAL, LONGFORMER], ids=["local", "longformer"])
@torch.no_grad()
def test_long_texts_decode_like_the_full_forward(kind, position, groups):
    stack, x = decoder(kind, groups), tokens(N)
    y = stack(x, context(position, 0, N))
    for sizes in CHUNKS if groups == 2 else CHUNKS[1:]:  # one by one takes the longest
        state = stack.new_state(BATCH, 4, x)
        assert all(type(layer.mixer) is WindowCache for layer in state)
        torch.testing.assert_close(decode(stack, x, sizes, position, state), y, atol=2e-5, rtol=0)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", [LOCAL, LONGFORMER], ids=["local", "longformer"])
@torch.no_grad()
def test_the_size_of_the_cache_is_constant(kind, padded):
    stack, x, sizes = decoder(kind, 2), tokens(300), []
    state = stack.new_state(BATCH, 300, x)
    keep = torch.ones(BATCH, 300, dtype=torch.bool)
    keep[0, 3:9] = not padded
    for i in range(300):
        stack(x[:, i : i + 1], context("none", i, i + 1), keep=keep[:, : i + 1] if padded else None, state=state)
        sizes.append(bytes_of(state))
    token = 2 * 2 * BATCH * 2 * (WIDTH // HEADS) * 4  # of both layers: keys and values of two heads
    assert max(sizes) <= token * state[0].mixer.most + 2 * (8 * BATCH * state[0].mixer.most + 8 * BATCH)
    assert state[0].mixer.most <= WINDOW + 2 + 48 and state[0].mixer.k.shape[2] <= state[0].mixer.most
    if not padded:
        assert len(set(sizes)) == 1
    big = LocalAttention(CoreSpec(heads=1, kv_heads=1, head_dim=2, causal=True), window=4096)
    assert 4096 < big.new_state(1, 100_000, x).k.shape[2] < 4096 * 1.15
    assert big.new_state(1, 100, x).k.shape[2] == 100


def test_only_what_no_later_token_sees_is_dropped():
    spec = CoreSpec(heads=HEADS, kv_heads=2, head_dim=8, causal=True)
    like = torch.zeros(1)
    kinds = {name: decoder(name)[0].mixer.core.new_state(1, 9, like) for name in KINDS}
    bounded = {name for name, state in kinds.items() if type(state) is WindowCache}
    assert bounded == {"local", "longformer", "dilated"}
    assert reach_of(Window(3, 0)) == (3, 0) and reach_of(Window(3, 0) | GlobalTokensMask(2)) == (3, 2)
    assert reach_of(And(Window(6, 6), Strided(2))) == (6, 0) and reach_of(CAUSAL & Window(2, 0)) == (2, 0)
    for pattern in (CAUSAL, Window(3, 0) | Strided(4), Window2D((4, 4), 1, 1), GlobalTokensMask(2)):
        assert reach_of(pattern) is None
    grid = LocalAttention(spec, window=3, grid=(4, 4))
    assert type(grid.new_state(1, 9, like)) is KVCache

    class Own(Longformer):
        def decode(self, q, k, v, state, mask=None, bias=None):
            return self(q, *state.append(k, v), mask, bias)

    assert type(Own(spec).new_state(1, 9, like)) is KVCache


def padded_batch():
    """Rows with padding on the left, on the right of a prompt, in the middle, and without any."""
    keep = torch.ones(4, N, dtype=torch.bool)
    keep[0, :55] = False
    keep[1, 5:60] = False
    keep[2, 1:60:2] = False
    return keep


@pytest.mark.parametrize("sizes", [[60] + [1] * 70, [60, 70], [20, 20, 20] + [7] * 10, [1] * N])
@pytest.mark.parametrize("position", ["none", "rope", "alibi", "buckets"])
@pytest.mark.parametrize("kind", [LOCAL, LONGFORMER, ("softmax", "local")], ids=["local", "longformer", "mixed"])
@torch.no_grad()
def test_padded_prompts_decode_like_their_rows_alone(kind, position, sizes):
    kind = tuple(LOCAL if one == "local" else one for one in kind) if isinstance(kind, tuple) else kind
    stack, x, keep = decoder(kind, 2), tokens(N, 4), padded_batch()
    places = (keep.long().cumsum(1) - 1).clamp(min=0)
    state, parts, start = stack.new_state(4, 4, x), [], 0
    for size in sizes:
        stop = start + size
        shown = context(position, start, stop)
        if position == "rope":
            shown = replace(shown, rotary=rotary(places[:, start:stop], WIDTH // HEADS))
        parts.append(stack(x[:, start:stop], shown, keep=keep[:, :stop], state=state))
        start = stop
    y = torch.cat(parts, 1)
    for row, real in enumerate(keep):
        alone = stack(x[row : row + 1, real], context(position, 0, int(real.sum())))
        torch.testing.assert_close(y[row, real], alone[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", [LOCAL, LONGFORMER], ids=["local", "longformer"])
@torch.no_grad()
def test_masks_and_biases_of_places_keep_their_places(kind):
    """Documents, padding as a mask, and tables of pairs are not functions of the distance."""
    stack, x = decoder(kind, 2), tokens(N)
    documents = torch.arange(N).div(9, rounding_mode="floor").expand(BATCH, -1)
    shown = torch.rand(BATCH, N, generator=torch.Generator().manual_seed(0)) > 0.3
    table = torch.randn(1, HEADS, N, N, generator=torch.Generator().manual_seed(1))
    for mask, bias in (
        (DocumentMask(documents), None),
        (PaddingMask(shown), ALiBi(HEADS)),
        (CAUSAL, TensorBias(table)),
    ):
        given = Context(mask=CAUSAL & mask, bias=bias)
        y, state, parts = stack(x, given), stack.new_state(BATCH, 4, x), []
        for i in range(0, N, 10):
            parts.append(stack(x[:, i : i + 10], given, state=state))
        torch.testing.assert_close(torch.cat(parts, 1), y, atol=2e-5, rtol=0)


@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("cls", [LocalAttention, Longformer])
@torch.no_grad()
def test_a_core_alone_takes_tensors_for_the_new_queries(cls, new):
    core = cls(CoreSpec(heads=2, kv_heads=2, head_dim=8, causal=True), window=WINDOW)
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 90, 8, generator=generator).unbind(0)
    allowed = torch.rand(1, 2, 90, 90, generator=generator) > 0.2
    bias = torch.randn(1, 2, 90, 90, generator=generator)
    state, whole = core.new_state(1, 4, q), Core.new_state(core, 1, 4, q)
    for i in range(0, 90, new):
        rows, stop = slice(i, i + new), i + new
        given = CAUSAL & as_mask(allowed[:, :, rows, :stop]), bias[:, :, rows, :stop]
        y, expected = (core.decode(q[:, :, rows], k[:, :, rows], v[:, :, rows], s, *given) for s in (state, whole))
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", [LOCAL, LONGFORMER], ids=["local", "longformer"])
@torch.no_grad()
def test_cropping_and_reordering_follow_the_text(kind, padded):
    """As speculative decoding does at each step: up to `MARGIN` of the last tokens are removed again."""
    stack, x = decoder(kind, 2), tokens(N)
    keep = torch.ones(BATCH, N + 9, dtype=torch.bool)
    keep[0, 2:4] = not padded
    state, other, order = stack.new_state(BATCH, 4, x), full(stack, BATCH, x), torch.tensor([1, 0])

    def read(part, some):
        stop = some.length + part.shape[1]
        given = context("alibi", some.length, stop)
        return stack(part, given, keep=keep[:, :stop] if padded else None, state=some)

    for i in range(0, N - 5, 5):
        for size in ([5], [1] * 5)[i // 5 % 2]:
            start = state.length
            part = x[:, start : start + size]
            torch.testing.assert_close(read(part, state), read(part, other), atol=2e-5, rtol=0)
        draft = -x[:, :MARGIN]
        for part in draft.split(MARGIN if i % 2 else 1, 1):
            torch.testing.assert_close(read(part, state), read(part, other), atol=2e-5, rtol=0)
        for each in (state, other):
            assert each.can_crop(i + 5)
            each.crop(i + 5)
            each.reorder(order)
        keep, x = keep[order], x[order]


@torch.no_grad()
def test_rejected_tokens_that_become_padding_are_dropped_from_their_row_alone():
    stack, x = decoder(LOCAL, 2), tokens(N)
    state, other = stack.new_state(BATCH, 4, x), full(stack, BATCH, x)
    keep = torch.ones(BATCH, N, dtype=torch.bool)
    generator = torch.Generator().manual_seed(3)
    for start in range(0, N, 5):
        stop = start + 5
        y, expected = (
            stack(x[:, start:stop], context("alibi", start, stop), keep=keep[:, :stop], state=each)
            for each in (state, other)
        )
        torch.testing.assert_close(y, expected, atol=2e-5, rtol=0)
        accepted = torch.randint(1, 6, (BATCH, 1), generator=generator)
        keep[:, start:stop] = torch.arange(5) < accepted


@torch.no_grad()
def test_what_the_cache_no_longer_has_is_an_error():
    stack, x = decoder(LOCAL, 2), tokens(N)
    state = stack.new_state(BATCH, 4, x)
    stack(x, context("none", 0, N), state=state)
    assert state.can_crop(N - MARGIN) and not state.can_crop(N - MARGIN - 1) and not state.can_crop(N + 1)
    with pytest.raises(ValueError, match="cannot crop a cache of 130 tokens to 60: attention to a window of 4 tokens"):
        state.crop(60)
    with pytest.raises(ValueError, match="cannot crop a cache of 130 tokens to 131"):
        state.crop(131)
    state.crop(0)
    torch.testing.assert_close(
        stack(x, context("none", 0, N), state=state), stack(x, context("none", 0, N)), atol=2e-5, rtol=0
    )
    keep = torch.ones(BATCH, N + 1, dtype=torch.bool)
    keep[0, 4] = False
    with pytest.raises(ValueError, match="attention_mask differs from earlier ones at tokens that the cache no longer"):
        stack(x[:, :1], context("none", N, N + 1), keep=keep, state=state)
    keep = torch.ones(BATCH, N + 1, dtype=torch.bool)
    keep[1, N - 12 : N] = False
    with pytest.raises(ValueError, match="attention_mask differs"):
        stack(x[:, :1], context("none", N, N + 1), keep=keep, state=state)


@torch.no_grad()
def test_few_tokens_are_cropped_as_far_as_one_likes():
    stack, x = decoder(LONGFORMER, 2), tokens(30)
    state = stack.new_state(BATCH, 4, x)
    stack(x, context("rope", 0, 30), state=state)
    for length in (7, 1):
        state.crop(length)
        y = stack(x[:, length:], context("rope", length, 30), state=state)
        torch.testing.assert_close(y, stack(x, context("rope", 0, 30))[:, length:], atol=2e-5, rtol=0)


@torch.no_grad()
def test_autocast_changes_the_dtype_of_the_cache():
    stack, x = decoder(LOCAL, 2), tokens(N)
    state, other = stack.new_state(BATCH, 4, x), full(stack, BATCH, x)
    with torch.autocast("cpu", torch.bfloat16):
        for start, stop in ((0, 60), *((i, i + 1) for i in range(60, 90))):
            y, expected = (stack(x[:, start:stop], context("rope", start, stop), state=each) for each in (state, other))
            torch.testing.assert_close(y, expected, atol=0.05, rtol=0)
    assert state[0].mixer.k.dtype == torch.bfloat16


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_layers_share_what_they_evaluate(padded, monkeypatch):
    calls = []
    plan = WindowCache.plan
    monkeypatch.setattr(WindowCache, "plan", lambda *args: calls.append(1) or plan(*args))
    evaluated = []
    call = GlobalTokensMask.__call__
    monkeypatch.setattr(GlobalTokensMask, "__call__", lambda *args: evaluated.append(1) or call(*args))
    stack, x = decoder(LONGFORMER, 2, depth=4), tokens(90)
    initialize(stack, 0)
    keep = torch.ones(BATCH, 91, dtype=torch.bool)
    keep[0, 0] = not padded
    state = stack.new_state(BATCH, 4, x)
    stack(x[:, :90], context("none", 0, 90), keep=keep[:, :90] if padded else None, state=state)
    calls.clear()
    evaluated.clear()
    stack(x[:, :1], context("none", 90, 91), keep=keep if padded else None, state=state)
    assert (len(calls), len(evaluated)) == (int(padded), 1)
