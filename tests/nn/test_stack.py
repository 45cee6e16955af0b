"""The loop over blocks: padding, checkpointing, intermediate features."""

import pytest
import torch
from mixer_cases import SumOfRow
from nn_cases import KINDS, SCORED
from torch import nn

from zoo.nn import (
    CAUSAL,
    ALiBi,
    Attention,
    BlockConfig,
    Context,
    DocumentMask,
    Mixer,
    PaddingMask,
    RecurrentState,
    T5RelativeBias,
    TensorBias,
    Window,
    initialize,
    register_mixer,
    rotary,
    sdpa,
)
from zoo.nn.conformance import check
from zoo.nn.registry import MIXERS

WIDTH, HEADS, N = 32, 4, 9
KEEP = torch.tensor(
    [
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 1, 1, 1, 1, 1, 1],  # left
        [1, 0, 1, 1, 0, 1, 1, 1, 0],  # holes; as many real ones as the row before
        [1, 1, 0, 0, 0, 0, 0, 0, 0],  # right
        [0, 0, 0, 0, 0, 0, 0, 0, 0],  # nothing at all
    ]
)
TABLE = torch.randn(8, HEADS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def encoder(kind="softmax", depth=2, seed=0, **options):
    attention = {"kind": kind, **KINDS[kind]} if kind in KINDS else kind
    made = BlockConfig(width=WIDTH, heads=HEADS, attention=attention, **options).stack(depth)
    initialize(made, seed)
    return made.double()


def tokens():
    return torch.randn(len(KEEP), N, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def contexts(kind):
    """Masks and positions that the kind can honor, as a function of the number of tokens."""
    made = {
        "none": lambda n: Context(),
        "causal": lambda n: Context(mask=CAUSAL),
        "rope": lambda n: Context(mask=CAUSAL, rotary=rotary(torch.arange(n), 8)),
    }
    if kind in SCORED:
        made |= {
            "window": lambda n: Context(mask=Window(2, 1)),
            "alibi": lambda n: Context(bias=ALiBi(HEADS)),
            "buckets": lambda n: Context(bias=T5RelativeBias(TABLE, True, 20)),
        }
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_dropped_masked_and_absent_padding_agree(kind):
    stack, x = encoder(kind, kv_heads=2), tokens()
    for name, context in contexts(kind).items():
        dropped = stack(x, context(N), keep=KEEP)
        masked = stack(x, context(N), keep=KEEP, drop_padding=False)
        assert (dropped[KEEP == 0] == 0).all() and (masked[KEEP == 0] == 0).all()
        torch.testing.assert_close(dropped, masked, atol=1e-6, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
        for row, keep in enumerate(KEEP.bool()[:4]):
            alone = stack(x[row : row + 1, keep], context(int(keep.sum())))
            torch.testing.assert_close(
                dropped[row, keep], alone[0], atol=1e-6, rtol=0, msg=lambda m, c=(name, row): f"{c}: {m}"
            )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("drop_padding", [True, False])
def test_padding_has_no_influence_on_gradients(kind, drop_padding):
    stack, x = encoder(kind), tokens()
    target = torch.randn_like(x)
    rows = KEEP.bool()[:4]

    def gradients(losses):
        stack.zero_grad()
        sum(losses).backward()
        return {name: p.grad.clone() for name, p in stack.named_parameters()}

    inside = x.clone().requires_grad_()
    y = stack(inside, Context(mask=CAUSAL), keep=KEEP, drop_padding=drop_padding)
    padded = gradients([(y * target)[:4].sum()])
    assert (inside.grad[KEEP == 0] == 0).all() and inside.grad.isfinite().all()
    alone = gradients(
        (stack(x[i : i + 1, keep], Context(mask=CAUSAL)) * target[i, keep]).sum() for i, keep in enumerate(rows)
    )
    for name, value in padded.items():
        torch.testing.assert_close(value, alone[name], atol=1e-6, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_values_at_padding_do_not_matter():
    stack, x = encoder(), tokens()
    other = torch.where(KEEP.bool()[..., None], x, torch.full_like(x, 1e6))
    assert torch.equal(stack(x, keep=KEEP), stack(other, keep=KEEP))


def test_padding_is_kept_where_rows_have_different_masks(monkeypatch):
    """Documents and a bias per row speak of places in their row: the mask path, with the same numbers as row by row."""
    stack, x = encoder(), tokens()
    ids = torch.randint(2, (len(KEEP), N), generator=torch.Generator().manual_seed(2))
    keep = KEEP.clone()
    keep[4, :3] = 1
    bias = torch.randn(len(KEEP), 1, N, N, dtype=torch.float64)
    for context in (Context(mask=DocumentMask(ids)), Context(bias=TensorBias(bias))):
        y = stack(x, context, keep=keep)
        for row in (0, 1, 3):
            one = Context(
                mask=context.mask and DocumentMask(ids[row : row + 1]),
                bias=context.bias and TensorBias(bias[row : row + 1]),
            )
            alone = stack(x[row : row + 1], one, keep=keep[row : row + 1])
            torch.testing.assert_close(y[row : row + 1], alone, atol=1e-9, rtol=0)


def test_padding_is_not_computed():
    stack, for_forward = encoder(), []
    stack[0].mlp.register_forward_pre_hook(lambda _, args: for_forward.append(args[0].shape[:2].numel()))
    stack(tokens(), keep=KEEP)
    stack(tokens(), keep=KEEP, drop_padding=False)
    stack(tokens(), keep=torch.ones_like(KEEP))
    assert for_forward == [int(KEEP.sum()), KEEP.numel(), KEEP.numel()]


@pytest.mark.parametrize("drop_padding", [True, False])
@pytest.mark.parametrize("bias", ["none", "alibi", "learned", "buckets"])
def test_checkpointing_gives_the_same_gradients(bias, drop_padding):
    stack, x = encoder(depth=3, dropout=0.2, drop_path=0.3), tokens()
    learned = {
        "learned": nn.Parameter(torch.randn(1, HEADS, N, N, dtype=torch.float64)),
        "buckets": nn.Parameter(TABLE.clone()),
    }.get(bias)
    made = {
        "alibi": lambda: ALiBi(HEADS),
        "learned": lambda: TensorBias(learned),
        "buckets": lambda: T5RelativeBias(learned),
    }
    gradients = []
    for stack.checkpointing in (False, True):
        stack.zero_grad()
        torch.manual_seed(3)
        context = Context(mask=CAUSAL, bias=made[bias]() if bias in made else None)
        leaf = x.clone().requires_grad_()
        stack(leaf, context, keep=KEEP, drop_padding=drop_padding).square().sum().backward()
        extra = [] if learned is None else [learned.grad.clone()]
        if learned is not None:
            learned.grad = None
        gradients.append([leaf.grad, *(p.grad.clone() for p in stack.parameters()), *extra])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed, atol=1e-12, rtol=0)


def test_checkpointing_recomputes():
    stack, calls = encoder(), []
    stack[1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    stack.checkpointing = True
    stack(tokens().requires_grad_(), keep=KEEP).sum().backward()
    assert len(calls) == 2
    with torch.no_grad():
        stack(tokens())
    assert len(calls) == 3


def test_layers():
    stack, x = encoder(depth=4), tokens()
    y, (first, last, again) = stack(x, layers=[0, -1, 3])
    assert torch.equal(y, stack(x)) and torch.equal(last, again)
    torch.testing.assert_close(stack.norm(last), y)
    shorter = encoder(depth=4)
    torch.testing.assert_close(first, shorter[0](x, Context().for_forward(N)), atol=1e-12, rtol=0)
    with pytest.raises(IndexError):
        stack(x, layers=[4])
    _, taken = stack(x, keep=KEEP, layers=[1, 2])
    _, masked = stack(x, keep=KEEP, layers=[1, 2], drop_padding=False)
    for a, b in zip(taken, masked, strict=True):
        assert (a[KEEP == 0] == 0).all()
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_a_stack_is_a_sequence_of_named_blocks():
    stack = encoder(depth=3)
    assert len(stack) == 3 and stack[-1] is list(stack)[2]
    assert {name.split(".")[0] for name in stack.state_dict()} == {"0", "1", "2", "norm"}
    with pytest.raises(IndexError):
        stack[3]


class Mean(Mixer):
    """A mixer that cannot hide anything: every token gets the mean of its row."""

    def __init__(self, spec):
        super().__init__(spec)
        self.proj = nn.Linear(spec.width, spec.width)

    def forward(self, x, context, state=None):
        return self.proj(x).mean(1, keepdim=True).expand_as(x)


@pytest.fixture
def mean_mixer():
    register_mixer("mean_of_row", Mean)
    yield "mean_of_row"
    MIXERS.pop("mean_of_row")


def test_a_mixer_gets_rows_without_padding(mean_mixer):
    stack, x = encoder(mixer=mean_mixer), tokens()
    y = stack(x, keep=KEEP)
    for row, keep in enumerate(KEEP.bool()[:4]):
        torch.testing.assert_close(y[row, keep], stack(x[row : row + 1, keep])[0], atol=1e-9, rtol=0)


def test_a_mixer_raises_for_padding_that_it_cannot_mask(mean_mixer):
    with pytest.raises(ValueError, match=r"Mean.*padding"):
        encoder(mixer=mean_mixer)(tokens(), keep=KEEP, drop_padding=False)


def test_masks_are_evaluated_once_a_forward():
    class Counted(PaddingMask):
        calls = 0

        def __call__(self, *index):
            Counted.calls += 1
            return super().__call__(*index)

    stack, x = encoder(depth=3), tokens()
    stack(x, Context(mask=Counted(torch.ones(len(x), N))))
    assert Counted.calls == 1


def test_kernels_are_chosen_once_a_forward(monkeypatch):
    """Layers with the same pattern, shapes, dtypes and dropout share the choice; the next forward chooses again."""
    choose, chosen = sdpa.choose_kernel, []
    monkeypatch.setattr(sdpa, "choose_kernel", lambda *args: chosen.append(args) or choose(*args))

    def choices(stack, *args, **options):
        chosen.clear()
        stack(tokens(), *args, **options)
        return len(chosen)

    alike, mixed = encoder(depth=4), encoder(("softmax", "local") * 2, depth=4)
    assert choices(alike) == choices(alike, Context(mask=CAUSAL)) == choices(alike, Context(bias=ALiBi(HEADS))) == 1
    assert choices(alike, keep=KEEP) == 3  # rows of 9, 6 and 2 tokens
    assert choices(mixed) == 2 and choices(mixed, keep=KEEP, drop_padding=False) == 2
    # as under autocast, another dtype is another choice
    for part in (alike[1].mixer.q, alike[1].mixer.k, alike[1].mixer.v):
        part.register_forward_hook(lambda module, args, y: y.float())
    alike[1].mixer.out.register_forward_pre_hook(lambda module, args: args[0].double())
    assert choices(alike) == 2
    alike[2].mixer.v.register_forward_hook(lambda module, args, y: y.float())
    with pytest.raises(ValueError, match="q, k and v have the dtypes"):  # a later layer is checked, too
        alike(tokens())


@pytest.mark.parametrize("kind", ["softmax", "performer"])
def test_a_batch_of_padding_alone_gives_zeros(kind):
    nothing = torch.zeros(2, N, dtype=torch.long)
    x = tokens()[:2].requires_grad_()
    y = encoder(kind)(x, Context(mask=CAUSAL), keep=nothing)
    y.sum().backward()
    assert torch.equal(y, torch.zeros_like(y)) and torch.equal(x.grad, torch.zeros_like(x))


def test_padded_rows_of_a_decoder_attend_to_their_own_memory():
    made = BlockConfig(width=16, heads=2, causal=True).stack(2, cross="softmax")
    initialize(made, 0)
    generator = torch.Generator().manual_seed(0)
    x, memory = torch.randn(3, 6, 16, generator=generator), torch.randn(3, 4, 16, generator=generator)
    keep = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1]])
    y = made(x, Context(mask=CAUSAL, memory=memory), keep=keep)
    for row, real in enumerate(keep.bool()):
        alone = made(x[row : row + 1, real], Context(mask=CAUSAL, memory=memory[row : row + 1]))
        torch.testing.assert_close(y[row, real], alone[0], atol=1e-5, rtol=1e-5)
        assert not y[row, ~real].any()


@pytest.fixture
def sum_mixer():
    register_mixer("sum_of_row", SumOfRow)
    yield "sum_of_row"
    MIXERS.pop("sum_of_row")


def test_a_list_of_mixers_repeats_over_the_depth(sum_mixer):
    stack = encoder(depth=6, mixer=(sum_mixer, sum_mixer, "attention"))
    assert [type(block.mixer) for block in stack] == [SumOfRow, SumOfRow, Attention] * 2
    with pytest.raises(ValueError, match="got 3 kinds for 4 layers; give 4, or a number that divides 4"):
        encoder(depth=4, mixer=(sum_mixer, sum_mixer, "attention"))


def test_a_block_may_have_no_mlp(sum_mixer):
    stack, x = encoder(depth=2, mixer=sum_mixer, mlp_dim=0), tokens()
    assert not any("mlp" in name or "norm2" in name for name in stack.state_dict())
    for block in stack:
        x = x + block.mixer(block.norm1(x), Context())
    torch.testing.assert_close(stack(tokens()), stack.norm(x))


def test_a_recurrent_mixer_decodes_padded_prompts(sum_mixer):
    report = check(sum_mixer)
    assert report.ok and report.results["decoding"] == "yes", str(report)


def test_a_recurrent_state_selects_and_replaces_rows():
    state = RecurrentState(a=torch.arange(3.0)[:, None], b=torch.arange(3.0).view(3, 1, 1))
    own = state.rows(torch.tensor([2, 0]))
    own.update(a=own["a"] + 10)
    state.write(torch.tensor([0, 1]), own)
    assert state["a"].flatten().tolist() == [12, 10, 2] and state["b"].flatten().tolist() == [2, 0, 2]
    state.reorder(torch.tensor([2, 2, 0]))
    assert state["a"].flatten().tolist() == [2, 2, 12]
    with pytest.raises(ValueError, match="RecurrentState is the state of a recurrence and cannot be cropped"):
        state.crop(1)
