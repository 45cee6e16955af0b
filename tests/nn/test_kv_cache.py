"""Step by step or in chunks: what decoding with a state computes is what the full forward computes."""

from dataclasses import replace

import pytest
import torch
from decoding_cases import BATCH, HEADS, WIDTH, N, context, decode, decoder, tokens
from nn_cases import GATED, KINDS, SCORED

from zoo.nn import (
    CAUSAL,
    BlockConfig,
    Context,
    Core,
    CoreSpec,
    KVCache,
    PaddingMask,
    Performer,
    Window,
    initialize,
    rotary,
)
from zoo.nn.kv_cache import StackState, StaticKVCache
from zoo.nn.masks import TensorMask
from zoo.nn.registry import register_custom


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("position", ["none", "rope", "alibi", "buckets"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_decoding_equals_the_full_forward_or_raises(kind, position, groups, windowed):
    stack, x, mask = decoder(kind, groups, depth=1), tokens(), CAUSAL & Window(3, 0) if windowed else CAUSAL
    if kind not in SCORED and (position in ("alibi", "buckets") or windowed):
        with pytest.raises(ValueError, match=kind):
            decode(stack, x, [1] * N, position, mask=mask)
        return
    full = stack(x, context(position, 0, N, mask))
    for sizes in ([1] * N, [4, 1, 1, 3, 2], [N]):
        torch.testing.assert_close(decode(stack, x, sizes, position, mask=mask), full, atol=2e-5, rtol=0)


class Sigmoid(Core):
    def weights(self, q, k, mask=None, bias=None):
        return self.scores(q, k, mask, bias).sigmoid()


@pytest.mark.parametrize("position", ["none", "rope", "alibi", "buckets"])
@torch.no_grad()
def test_a_custom_core_decodes(position):
    stack, x = decoder(register_custom(Sigmoid), 2), tokens()
    full = stack(x, context(position, 0, N))
    torch.testing.assert_close(decode(stack, x, [3, 1, 1, 4, 2], position), full, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", ["softmax", "longformer", "bigbird", "performer", *GATED])
@pytest.mark.parametrize("position", ["none", "buckets", "rope"])
@torch.no_grad()
def test_a_padded_prompt_decodes_like_its_row_alone(kind, position):
    if kind not in SCORED and position == "buckets":
        position = "none"
    stack, x = decoder(kind, 2), tokens()
    keep = torch.ones(BATCH, N, dtype=torch.bool)
    keep[0, :3] = False  # left padding
    alone = stack(x[:1, 3:], context(position, 0, N - 3))
    state, parts, start = stack.new_state(BATCH, 4, x), [], 0
    places = (keep.long().cumsum(1) - 1).clamp(min=0)
    for size in (5, 1, 1, 3, 1):
        stop = start + size
        shown = context(position, start, stop)
        if position == "rope":
            if start:
                with pytest.raises(ValueError, match="one rotary table per row"):
                    stack(x[:, start:stop], shown, keep=keep[:, :stop], state=state)
            shown = replace(shown, rotary=rotary(places[:, start:stop], WIDTH // HEADS))
        parts.append(stack(x[:, start:stop], shown, keep=keep[:, :stop], state=state))
        start = stop
    y = torch.cat(parts, 1)
    torch.testing.assert_close(y[:1, 3:], alone, atol=2e-5, rtol=0)
    torch.testing.assert_close(y[1:], stack(x[1:], context(position, 0, N)), atol=2e-5, rtol=0)
    assert (y[0, :3] == 0).all()


@torch.no_grad()
def test_cropping_removes_a_rejected_draft():
    stack, x = decoder(groups=2), tokens()
    state = stack.new_state(BATCH, 4, x)
    stack(x[:, :6], context("rope", 0, 6), state=state)
    stack(-3 * x[:, 6:10], context("rope", 6, 10), state=state)
    state.crop(6)
    assert state.length == state[0].mixer.length == 6
    y = stack(x[:, 6:], context("rope", 6, N), state=state)
    torch.testing.assert_close(y, stack(x, context("rope", 0, N))[:, 6:], atol=2e-5, rtol=0)
    with pytest.raises(ValueError, match="cannot crop a cache of 11 tokens to 12"):
        state.crop(12)
    with pytest.raises(ValueError, match=r"sum over all tokens.*cropped to 2"):
        decoder("performer").new_state(1, 4, x).crop(2)


@pytest.mark.parametrize("kind", ["softmax", "linear", *GATED])
@torch.no_grad()
def test_reordering_follows_the_beams(kind):
    stack, x = decoder(kind, 2), tokens()
    state = stack.new_state(BATCH, 4, x)
    stack(x[:, :6], context("none", 0, 6), state=state)
    beams = torch.tensor([1, 0, 1])
    state.reorder(beams)
    y = stack(x[beams, 6:], context("none", 6, N), state=state)
    torch.testing.assert_close(y, stack(x[beams], context("none", 0, N))[:, 6:], atol=2e-5, rtol=0)


def static(stack, x, capacity=16, groups=2):
    """A state of static caches, and their positions."""
    state, positions = stack.new_state(len(x), 4, x), torch.zeros(len(x), 1, dtype=torch.long)
    for layer in state:
        layer.mixer = StaticKVCache(len(x), groups, capacity, WIDTH // HEADS, x, positions)
    state.is_static = True
    return state, positions


@pytest.mark.parametrize("kind", ["softmax", "local", "strided", "longformer", "bigbird", "additive"])
@pytest.mark.parametrize("position", ["none", "rope", "alibi", "buckets"])
@torch.no_grad()
def test_a_static_buffer_computes_the_same(kind, position):
    """For CUDA graphs: the whole buffer is attended to, and what is not written yet is masked."""
    stack, x = decoder(kind, 2), tokens()
    state, positions = static(stack, x)
    state[0].mixer.keys_and_values += 1e4  # whatever is behind the last token has no influence
    addresses, parts = [layer.mixer.k.data_ptr() for layer in state], []
    for i in range(N):
        parts.append(stack(x[:, i : i + 1], context(position, i, i + 1), state=state))
        positions += 1
    torch.testing.assert_close(torch.cat(parts, 1), stack(x, context(position, 0, N)), atol=2e-5, rtol=0)
    assert [layer.mixer.k.data_ptr() for layer in state] == addresses


@torch.no_grad()
def test_rows_of_a_static_buffer_have_lengths_of_their_own():
    stack, x = decoder(groups=2), tokens()
    keep = torch.ones(BATCH, 6, dtype=torch.bool)
    keep[0, [0, 3]] = False
    prompt = stack.new_state(BATCH, 4, x)
    stack(x[:, :6], context("none", 0, 6), keep=keep, state=prompt)
    state, positions = static(stack, x)
    order = (~keep).byte().argsort(dim=1, stable=True)
    for layer, other in zip(state, prompt, strict=True):
        layer.mixer.keys_and_values.fill_(torch.nan)  # of an earlier text
        layer.mixer.load(other.mixer, order)
    positions.copy_(keep.sum(1, keepdim=True))
    y = stack(x[:, 6:7], context("none", 6, 7), state=state)
    for row in range(BATCH):
        alone = torch.cat([x[row, :6][keep[row]], x[row, 6:7]])[None]
        torch.testing.assert_close(y[row], stack(alone, context("none", 0, alone.shape[1]))[0, -1:], atol=2e-5, rtol=0)
    with pytest.raises(ValueError, match="no padding: omit keep="):
        stack(x[:, 7:8], context("none", 7, 8), keep=torch.zeros(BATCH, 8, dtype=torch.bool), state=state)


@torch.no_grad()
def test_a_static_buffer_crops_and_reorders_in_place():
    stack, x = decoder(groups=2), tokens()
    state, positions = static(stack, x)
    for i in range(8):
        stack(x[:, i : i + 1], context("none", i, i + 1), state=state)
        positions += 1
    address = state[0].mixer.k.data_ptr()
    state.crop(6)
    state.reorder(torch.tensor([1, 0]))
    assert positions.tolist() == [[6], [6]] and state[0].mixer.k.data_ptr() == address
    y = stack(x[[1, 0], 6:7], context("none", 6, 7), state=state)
    torch.testing.assert_close(y, stack(x[[1, 0], :7], context("none", 0, 7))[:, 6:], atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_key_that_no_query_sees_is_masked_in_static_buffers():
    """A pattern that hides even the token itself: all keys of the row are masked, and the output is zero."""
    stack, x = decoder(groups=2, depth=1), tokens()
    state, _ = static(stack, x)
    state[0].mixer.load(KVCache(BATCH, 2, 4, WIDTH // HEADS, x), None)
    core, (q, k) = stack[0].mixer.core, torch.randn(2, BATCH, HEADS, 1, WIDTH // HEADS)
    mask = TensorMask(torch.zeros(1, 1, 1, 16, dtype=torch.bool))
    assert (core.decode(q, k[:, :2], k[:, :2], state[0].mixer, mask) == 0).all()


@torch.no_grad()
def test_a_static_buffer_compiles_once():
    torch._dynamo.reset()
    stack, x = decoder(groups=2), tokens()
    state, positions = static(stack, x)
    full = stack(x, context("none", 0, N))
    graphs, parts = [], []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    step = torch.compile(stack, backend=backend, fullgraph=True)
    for i in range(N):
        parts.append(step(x[:, i : i + 1], Context(mask=CAUSAL), state=state))
        positions += 1
    torch.testing.assert_close(torch.cat(parts, 1), full, atol=2e-5, rtol=0)
    assert len(graphs) == 1, f"{len(graphs)} graphs for {N} steps"


def test_cross_attention_projects_its_memory_once():
    spec = BlockConfig(width=WIDTH, heads=HEADS, kv_heads=2, causal=True)
    stack = spec.stack(2, cross="softmax", memory_width=24)
    initialize(stack, 0)
    x, memory = tokens(), torch.randn(BATCH, 5, 24)
    shown = Context(
        mask=CAUSAL, memory=memory, memory_mask=PaddingMask(torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]))
    )
    full = stack(x, shown)
    projected = []
    stack[0].cross.k.register_forward_hook(lambda *_: projected.append(1))
    with torch.no_grad():
        state = stack.new_state(BATCH, 4, x)
        y = torch.cat([stack(x[:, i : i + 1], shown, state=state) for i in range(N)], 1)
    torch.testing.assert_close(y, full, atol=2e-5, rtol=0)
    assert len(projected) == 1
    alone = stack(x[:1], Context(mask=CAUSAL, memory=memory[:1, :3]))
    torch.testing.assert_close(full[:1], alone, atol=2e-5, rtol=0)
    state.reorder(torch.tensor([1, 1]))
    assert torch.equal(state[0].memory[0][0], state[0].memory[0][1])


def test_mixers_without_a_cache_raise():
    stack = decoder("performer")
    x = tokens()
    with pytest.raises(ValueError, match="decoding needs a causal mask"):
        stack(x, Context(), state=stack.new_state(BATCH, 4, x))
    block = decoder()
    block[0].mixer = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"Identity cannot decode.*new_state"):
        block.new_state(1, 4, x)
    assert isinstance(stack.new_state(1, 4, x), StackState)


def test_a_state_has_the_dtype_and_device_of_its_inputs():
    state = decoder().new_state(3, 5, torch.zeros(1, dtype=torch.bfloat16))
    assert state[0].mixer.k.shape == (3, HEADS, 5, WIDTH // HEADS) and state[0].mixer.k.dtype == torch.bfloat16
    core = CoreSpec(heads=2, kv_heads=2, head_dim=4)
    assert Performer(core).new_state(1, 5, torch.zeros(1, dtype=torch.bfloat16)).sum.dtype == torch.float32


@pytest.mark.parametrize("kind", ["softmax", "local", "additive", "linear", *GATED])
@torch.no_grad()
def test_decoding_under_autocast_computes_the_same(kind):
    """Autocast computes keys in bfloat16 from weights in float32."""
    stack, x = decoder(kind, 2), tokens()
    state = stack.new_state(BATCH, 4, x)
    with torch.autocast("cpu", torch.bfloat16):
        parts = [stack(x[:, i : i + 1], context("rope", i, i + 1), state=state) for i in range(N)]
        full = stack(x, context("rope", 0, N))
    torch.testing.assert_close(torch.cat(parts, 1), full, atol=0.05, rtol=0)
