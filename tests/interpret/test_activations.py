"""What `zoo.capture(what=...)` records: activations in the places of the batch, and nothing of the outputs changes."""

import pytest
import torch
from gpu_twin import choose_as_on_a_gpu
from live_memory import LiveMemory
from torch import Tensor

import zoo
from zoo.nn import CAUSAL, BlockConfig, Context, Stack, initialize
from zoo.nn.rotary import rotary

WHAT = ("attention", "q", "k", "v", "head_output", "mixer", "mlp", "residual")
KEEP = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [0, 0] + [1] * 5])


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_stack(depth: int = 2, **fields: object) -> Stack:
    spec = BlockConfig(**{"width": 32, "heads": 4, "kv_heads": 2, "attention": "softmax"} | fields)  # type: ignore[arg-type]
    stack = spec.stack(depth)
    initialize(stack, 0)
    return stack.eval()


def test_each_is_what_the_modules_compute() -> None:
    stack, x = make_stack(1, qk_norm=True), tokens(2, 5, 32)
    context = Context(CAUSAL, rotary=rotary(torch.arange(5), 8))
    found = {}
    for what in WHAT:
        with zoo.capture(stack, what) as captured:
            y = stack(x, context)
        (found[what],) = captured.values()
    block = stack[0]
    q, k, v = block.mixer.project_heads(block.norm1(x))
    q, k = block.mixer.q_norm(q), block.mixer.k_norm(k)
    q, k = context.rotary(q), context.rotary(k)
    for name, expected in (("q", q), ("k", k), ("v", v)):
        assert torch.equal(found[name], expected) and not found[name].requires_grad
    torch.testing.assert_close(found["attention"] @ v.repeat_interleave(2, 1), found["head_output"])
    assert torch.equal(block.mixer.out(found["head_output"].transpose(1, 2).flatten(2)), found["mixer"])
    middle = x + found["mixer"]
    assert torch.equal(block.mlp(block.norm2(middle)), found["mlp"])
    assert torch.equal(middle + found["mlp"], found["residual"]) and torch.equal(stack.norm(found["residual"]), y)


@pytest.mark.parametrize("layout", ["groups", "packed", "padded"])
@pytest.mark.parametrize("what", WHAT)
def test_padded_and_packed_rows_have_those_of_the_rows_alone_and_zeros(
    what: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, x = make_stack(), tokens(3, 7, 32)
    captured = []
    for drop in (False, True):
        if drop and layout != "groups":
            choose_as_on_a_gpu(monkeypatch, flash_takes=(torch.float32,) if layout == "packed" else ())
        plain = stack(x, keep=KEEP, drop_padding=drop)
        with zoo.capture(stack, what, rows=[2, 1]) as found:
            assert torch.equal(stack(x, keep=KEEP, drop_padding=drop), plain)
        captured.append(found)
    for place, row in enumerate((2, 1)):
        real = KEEP[row].bool()
        with zoo.capture(stack, what) as alone:
            stack(x[row : row + 1, real])
        for found in captured:
            for name, expected in alone.items():
                own = found[name][place].movedim(-2, 0)  # the tokens first
                torch.testing.assert_close(
                    own[real][..., real] if what == "attention" else own[real], expected[0].movedim(-2, 0),
                    rtol=1e-4, atol=1e-5,
                )  # fmt: skip
                assert not own[~real].any()


@pytest.mark.parametrize("kind", ["softmax", "local", "linear", "gated_delta"])
def test_decoding_gives_a_list_that_is_the_full_pass_token_by_token(kind: str) -> None:
    attention = {"kind": kind, "window": 4} if kind == "local" else kind
    stack, x, context = make_stack(1, attention=attention, causal=True), tokens(2, 9, 32), Context(CAUSAL)
    for what in WHAT[1:]:
        heads = {"heads": [1, 0]} if what in ("q", "k", "v", "head_output") else {}
        with zoo.capture(stack, what, **heads) as full:
            stack(x, context)
        state = stack.new_state(2, 8, x)
        with zoo.capture(stack, what, **heads) as steps:
            for part in (x[:, :4], x[:, 4:5], x[:, 5:]):
                stack(part, context, state=state)
        for name, expected in full.items():
            assert [one.shape[-2] for one in steps[name]] == [4, 1, 4]
            torch.testing.assert_close(torch.cat(steps[name], -2), expected, rtol=1e-4, atol=1e-5)
    assert "decode" not in vars(stack[0].mixer.core)


def test_two_captures_at_once_and_training_with_recomputation() -> None:
    stack, x = make_stack(), tokens(2, 5, 32)
    stack.checkpointing = True
    plain = stack(x)
    with zoo.capture(stack, "k") as keys, zoo.capture(stack, "mlp", layers=1, reduce=lambda y: y[:, 0]) as first:
        y = stack(x)
        y.sum().backward()
    assert torch.equal(y, plain) and keys["1.mixer"].shape == (2, 2, 5, 8)
    assert first["1.mlp"].shape == (2, 32) and first["1.mlp"].untyped_storage().nbytes() == 2 * 32 * 4


def test_names_in_models_of_every_modality() -> None:
    image = {"pixel_values": tokens(2, 3, 32, 32)}
    audio = {"input_values": tokens(2, 6000), "attention_mask": torch.tensor([[1] * 6000, [1] * 4000 + [0] * 2000])}
    ids = torch.tensor([[5, 6, 7]])
    both = {"input_ids": ids, "decoder_input_ids": ids}
    for name, batch, what, expected in (
        ("vit_cifar_tiny", image, "residual", "blocks.1"),
        ("wav2vec2_tiny", audio, "head_output", "blocks.1.mixer"),
        ("t5_nano", both, "v", "decoder.blocks.1.cross"),
        ("mamba_nano", {"input_ids": ids}, "mixer", "blocks.1.mixer"),
    ):
        model = zoo.create_model(name, seed=0, **({"depth": 2} if name == "vit_cifar_tiny" else {})).eval()
        plain = model(**batch)
        with zoo.capture(model, what) as found:
            assert torch.equal(model(**batch), plain)
        assert expected in found
    with pytest.raises(ValueError, match=r"blocks.0.mixer is a Mamba.*, which has no attention heads"):
        zoo.capture(model, "q").__enter__()


def test_a_reduction_over_layers_takes_a_fifth_of_the_memory_of_all_maps() -> None:
    stack = make_stack(12, width=48, heads=12, kv_heads=12, mlp_dim=48)
    x = tokens(1, 288, 48)

    def peak(**options: object) -> int:
        with torch.no_grad(), LiveMemory() as memory, zoo.capture(stack, **options):  # type: ignore[arg-type]
            stack(x)
        return memory.peak

    total: list[Tensor] = []

    def add(weights: Tensor) -> None:
        mean = weights.mean(1)
        total[:] = [mean if not total else total[0] + mean]

    everything = peak()
    assert everything > 12 * 12 * 288**2 * 4
    assert peak(reduce=add) < everything / 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"what": "queries"}, "what='queries'.*expected one of 'attention', 'q'"),
        ({"what": "mlp", "heads": 0}, "heads=0: what='mlp' has no heads; what='head_output' has"),
        ({"what": "mlp", "layers": "0.mixer"}, "no MLP is named '0.mixer'"),
        ({"what": "residual", "layers": 2}, "layers=2: no block with this number is there; blocks: 0 to 1"),
        ({"what": "k", "heads": 2}, "heads=2 is out of range: 0.mixer has 2 heads"),
        ({"what": "residual", "rows": 2}, "rows=2 is out of range: 0 has 2 rows"),
    ],
)
def test_what_cannot_be_captured_is_said(options: dict, said: str) -> None:
    stack = make_stack()
    with pytest.raises(ValueError, match=said), zoo.capture(stack, **options):
        stack(tokens(2, 3, 32))
