"""Maps come from any core, padded or packed or decoded, and leave the model's numbers alone."""

import math
import re
import warnings

import pytest
import torch
from gpu_twin import choose_as_on_a_gpu
from torch import Tensor, nn

import zoo
from zoo.interpret.attention_maps import distance, entropy
from zoo.interpret.select_layers import find_layers
from zoo.interpret.selected_maps import SEPARATE_HEADS
from zoo.nn import CAUSAL, ALiBi, BlockConfig, Context, Core, Stack, initialize
from zoo.nn.registry import BUILT_IN, CORES, MIXERS, register_custom

SPEC = BlockConfig(width=32, heads=4)


def make_stack(depth: int = 2, *, cross: str | None = None, **fields: object) -> Stack:
    fields = {"width": 32, "heads": 4, "attention": "softmax"} | fields
    spec = BlockConfig(**fields | {"attention": register_custom(fields["attention"])})  # type: ignore[arg-type]
    stack = spec.stack(depth, cross=cross)
    initialize(stack, 0)
    with torch.no_grad():
        for p in stack.parameters():
            if p.ndim > 1:
                p.mul_(5)
    return stack.eval()


def make_vit(**overrides: object) -> zoo.Model:
    return zoo.create_model("vit_cifar_tiny", seed=0, depth=2, **overrides).eval()


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Mixing(Core):
    """Talking heads: the scores of all heads are mixed, so one head cannot be computed alone."""

    def __init__(self, spec: zoo.nn.CoreSpec) -> None:
        super().__init__(spec)
        self.talk = nn.Parameter(torch.eye(spec.heads) + 0.3)

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        scores = self.scores(q, k, None, bias)
        mixed = torch.einsum("hg,bgnm->bhnm", self.talk, scores)
        return self.hide(mixed, mask, None).softmax(-1).nan_to_num()


# --- the contract -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*BUILT_IN, Mixing])
def test_maps_mix_the_values_into_the_output(kind: object) -> None:
    stack = make_stack(attention=kind, kv_heads=2)
    x = tokens(3, 20, 32)
    plain = stack(x)
    with zoo.capture(stack) as maps:
        assert torch.equal(stack(x), plain)
    assert list(maps) == ["0.mixer", "1.mixer"]
    first, normed = stack[0].mixer, stack[0].norm1(x)
    values = first.split(first.v(normed)).repeat_interleave(2, 1)
    y = first.out((maps["0.mixer"] @ values).transpose(1, 2).flatten(2))
    expected = first(normed, Context())
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5 * max(1.0, expected.abs().max().item()))
    assert maps["0.mixer"].shape == (3, 4, 20, 20) and not maps["0.mixer"].requires_grad


def test_names_of_a_model_and_the_choice_of_layers() -> None:
    model, x = make_vit(), tokens(2, 3, 32, 32)
    for layers, names in [
        ("*", ["blocks.0.mixer", "blocks.1.mixer"]),
        ("blocks.1.*", ["blocks.1.mixer"]),
        (-1, ["blocks.1.mixer"]),
        ([1, 0], ["blocks.0.mixer", "blocks.1.mixer"]),
        (["*.0.*", -1], ["blocks.0.mixer", "blocks.1.mixer"]),
    ]:
        with zoo.capture(model, layers=layers) as maps:
            model(x)
        assert list(maps) == names
        torch.testing.assert_close(maps[names[0]].sum(-1), torch.ones(2, 3, 64))


@pytest.mark.parametrize("kind", [*BUILT_IN, Mixing])
def test_rows_and_heads_are_those_of_the_whole_map(kind: object) -> None:
    stack = make_stack(1, attention=kind, kv_heads=2, causal=True)
    x = tokens(4, 12, 32)
    context = Context(CAUSAL)
    with zoo.capture(stack) as whole:
        stack(x, context)
    with zoo.capture(stack, rows=[2, -4], heads=[3, 0]) as some:
        stack(x, context)
    with zoo.capture(stack, rows=1, heads=2) as one:
        stack(x, context)
    torch.testing.assert_close(some["0.mixer"], whole["0.mixer"][[2, 0]][:, [3, 0]])
    torch.testing.assert_close(one["0.mixer"], whole["0.mixer"][1:2, 2:3])


def test_heads_are_chosen_before_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, weights = [], CORES["softmax"].weights

    def noted(core: Core, q: Tensor, k: Tensor, *rest: object) -> Tensor:
        seen.append((q.shape, k.shape))
        return weights(core, q, k, *rest)

    monkeypatch.setattr(CORES["softmax"], "weights", noted)
    stack = make_stack(1, kv_heads=2)
    with zoo.capture(stack, rows=0, heads=[1, 3]):
        stack(tokens(5, 7, 32))
    assert seen == [((1, 2, 7, 8), (1, 2, 7, 8))]


def test_heads_are_selected_early_only_in_built_in_cores() -> None:
    """Others, also of kinds that are added later, compute the maps of all heads first."""
    assert set(SEPARATE_HEADS) <= {CORES[name] for name in BUILT_IN}


def test_a_bias_per_head_and_a_mask_per_row_follow_the_choice() -> None:
    stack = make_stack(1)
    x, mask = tokens(3, 6, 32), torch.rand(3, 4, 6, 6, generator=torch.Generator().manual_seed(1)) > 0.3
    context = Context(zoo.nn.TensorMask(mask), ALiBi(4))
    with zoo.capture(stack) as whole:
        stack(x, context)
    with zoo.capture(stack, rows=[2, 1], heads=[3, 1]) as some:
        stack(x, context)
    torch.testing.assert_close(some["0.mixer"], whole["0.mixer"][[2, 1]][:, [3, 1]])
    assert (whole["0.mixer"][~mask] == 0).all()


def test_reduce_keeps_what_it_returns() -> None:
    stack = make_stack(1)
    with zoo.capture(stack, reduce=lambda w: w.mean(1)[:, 0]) as maps:
        stack(tokens(2, 5, 32))
    assert maps["0.mixer"].shape == (2, 5)


# --- padding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["softmax", "additive", "local", "performer", Mixing])
@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize("layout", ["groups", "packed", "padded"])
def test_padded_rows_have_the_maps_of_the_rows_alone_and_zeros(
    kind: object, drop: bool, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layout != "groups":
        choose_as_on_a_gpu(monkeypatch, flash_takes=(torch.float32,) if layout == "packed" else ())
    stack = make_stack(2, attention=kind)
    x = tokens(4, 7, 32)
    keep = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [0, 0] + [1] * 4 + [0], [0] * 3 + [1] * 4])
    plain = stack(x, keep=keep, drop_padding=drop)
    with zoo.capture(stack, rows=[3, 0, 1, 2]) as maps:
        assert torch.equal(stack(x, keep=keep, drop_padding=drop), plain)
    for place, row in enumerate([3, 0, 1, 2]):
        real = keep[row].bool()
        with zoo.capture(stack) as alone:
            stack(x[row : row + 1, real])
        for name in maps:
            found = maps[name][place]
            torch.testing.assert_close(found[:, real][:, :, real], alone[name][0], rtol=1e-4, atol=1e-5)
            assert (found[:, ~real] == 0).all() and (found[:, :, ~real] == 0).all()


def test_a_row_of_nothing_but_padding_is_zeros() -> None:
    stack = make_stack(1)
    keep = torch.tensor([[1, 1, 1], [0, 0, 0]])
    with zoo.capture(stack, rows=1, heads=[0, 1]) as maps:
        stack(tokens(2, 3, 32), keep=keep)
    assert maps["0.mixer"].shape == (1, 2, 3, 3) and not maps["0.mixer"].any()


def test_a_text_model_with_padding() -> None:
    model = zoo.create_model("bert_tiny", seed=0).eval()
    ids = torch.randint(5, 100, (2, 6), generator=torch.Generator().manual_seed(0))
    keep = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    with torch.no_grad(), zoo.capture(model, layers=-1) as maps:
        model(input_ids=ids, attention_mask=keep)
    assert list(maps) == ["blocks.1.mixer"]
    torch.testing.assert_close(maps["blocks.1.mixer"].sum(-1), keep[:, None].float().expand(2, 2, 6))


# --- cross-attention, decoding ------------------------------------------------------------------------------------


def test_cross_attention() -> None:
    stack = make_stack(1, cross="softmax", causal=True)
    x, memory = tokens(2, 4, 32), tokens(2, 6, 32, seed=1)
    hidden = torch.tensor([[1] * 6, [1] * 4 + [0] * 2]).bool()
    context = Context(CAUSAL, memory=memory, memory_mask=zoo.nn.PaddingMask(hidden))
    with zoo.capture(stack, layers="*.cross", rows=[1]) as maps:
        stack(x, context, keep=torch.tensor([[1] * 4, [1] * 3 + [0]]))
    found = maps["0.cross"]
    assert list(maps) == ["0.cross"] and found.shape == (1, 4, 4, 6)
    assert (found[..., 4:] == 0).all() and (found[:, :, 3] == 0).all()
    torch.testing.assert_close(found[:, :, :3].sum(-1), torch.ones(1, 4, 3))


@pytest.mark.parametrize("kind", ["softmax", "additive", "local", "linear", "performer", "rfa"])
def test_decoding_gives_a_list_that_is_the_full_map_row_by_row(kind: str) -> None:
    stack = make_stack(2, attention=kind, causal=True, kv_heads=2)
    x, context = tokens(3, 6, 32), Context(CAUSAL)
    with zoo.capture(stack) as full:
        stack(x, context)
    state = stack.new_state(3, 8, x)
    with zoo.capture(stack, rows=[2, 0], heads=[1, 3]) as maps:
        for part in (x[:, :3], x[:, 3:4], x[:, 4:]):
            stack(part, context, state=state)
    for name, found in maps.items():
        assert [tuple(w.shape) for w in found] == [(2, 2, 3, 3), (2, 2, 1, 4), (2, 2, 2, 6)]
        whole = full[name][[2, 0]][:, [1, 3]]
        for w, (start, stop) in zip(found, [(0, 3), (3, 4), (4, 6)], strict=True):
            torch.testing.assert_close(w, whole[:, :, start:stop, :stop], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", ["local", "longformer"])
def test_maps_of_a_window_while_decoding_are_of_all_tokens(kind: str, padded: bool) -> None:
    """The cache has dropped most of them; their weight is zero."""
    stack = make_stack(2, attention={"kind": kind, "window": 4}, causal=True, kv_heads=2)
    x, context, keep = tokens(3, 90, 32), Context(CAUSAL), torch.ones(3, 90, dtype=torch.bool)
    keep[0, 5:40] = not padded
    with zoo.capture(stack) as full:
        stack(x, context, keep=keep)
    state = stack.new_state(3, 8, x)
    with zoo.capture(stack, rows=[2, 0], heads=[1, 3]) as maps:
        for i in range(0, 90, 6):
            stack(x[:, i : i + 6], context, keep=keep[:, : i + 6], state=state)
    assert state[0].mixer.k.shape[2] < 60
    for name, found in maps.items():
        for w, i in zip(found, range(0, 90, 6), strict=True):
            whole = full[name][[2, 0]][:, [1, 3], i : i + 6, : i + 6]
            torch.testing.assert_close(w, whole, rtol=1e-4, atol=1e-5)


def test_a_sum_cannot_be_shown_from_its_middle_on() -> None:
    stack = make_stack(1, attention="linear", causal=True)
    x, context = tokens(2, 4, 32), Context(CAUSAL)
    state = stack.new_state(2, 8, x)
    stack(x, context, state=state)
    with pytest.raises(ValueError, match="before the first token"), zoo.capture(stack):
        stack(x[:, :1], context, state=state)
    assert "decode" not in vars(stack[0].mixer.core)


def test_a_model_called_twice_gives_lists() -> None:
    stack = make_stack(1)
    with zoo.capture(stack) as maps:
        stack(tokens(1, 3, 32))
        stack(tokens(2, 5, 32))
    assert [w.shape[0] for w in maps["0.mixer"]] == [1, 2]


# --- training, compiling, wrapping --------------------------------------------------------------------------------


def losses(stack: Stack, x: Tensor) -> list[Tensor]:
    stack.zero_grad()
    torch.manual_seed(3)
    stack(x, Context(bias=ALiBi(4))).square().sum().backward()
    return [p.grad.clone() for p in stack.parameters()]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["softmax", Mixing])
def test_training_gives_the_same_gradients_and_one_map_a_step(kind: object, checkpointing: bool) -> None:
    stack = make_stack(2, attention=kind, dropout=0.2, attention_dropout=0.2, drop_path=0.2).train()
    stack.checkpointing = checkpointing
    x = tokens(3, 9, 32)
    plain = losses(stack, x)
    with zoo.capture(stack) as maps:
        watched = losses(stack, x)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert maps["1.mixer"].shape == (3, 4, 9, 9) and not maps["1.mixer"].requires_grad


def test_a_learned_bias_that_layers_share_keeps_its_gradient() -> None:
    stack = make_stack(2, attention=["local", "softmax"])
    table = nn.Parameter(torch.zeros(32, 4))
    context = Context(bias=zoo.nn.T5RelativeBias(table))
    with zoo.capture(stack):
        stack(tokens(2, 5, 32), context).square().sum().backward()
    assert table.grad is not None and table.grad.any()


def test_without_gradients_and_in_inference_mode() -> None:
    stack, x = make_stack(1), tokens(1, 4, 32)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), zoo.capture(stack) as maps:
            stack(x)
        assert maps["0.mixer"].shape == (1, 4, 4, 4)


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_a_compiled_model_runs_eagerly_inside(how: str) -> None:
    model, x = make_vit(), tokens(2, 3, 32, 32)
    eager = model(x)
    compiled = model
    if how == "wrapped":
        compiled = torch.compile(model, backend="eager", fullgraph=True)
    else:
        model.compile(backend="eager", fullgraph=True)
    compiled(x)
    with zoo.capture(compiled) as maps:
        assert torch.equal(compiled(x), eager)
    assert list(maps) == ["blocks.0.mixer", "blocks.1.mixer"]
    compiled(x)
    assert list(maps) == ["blocks.0.mixer", "blocks.1.mixer"]


def test_a_model_in_distributed_data_parallel() -> None:
    model, x = make_vit(), tokens(2, 3, 32, 32)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        with zoo.capture(wrapped, layers=0) as maps:
            wrapped(x).sum().backward()
        del wrapped  # before the group, whose threads its destructor may wait for without end
    finally:
        torch.distributed.destroy_process_group()
    assert list(maps) == ["blocks.0.mixer"]


def test_an_optimized_model() -> None:
    model, x = make_vit(), tokens(2, 3, 32, 32)
    with zoo.capture(model) as maps:
        model(x)
    optimized = zoo.optimize(model)
    with zoo.capture(optimized) as fast:
        optimized(x)
    torch.testing.assert_close(fast["blocks.1.mixer"], maps["blocks.1.mixer"], rtol=1e-3, atol=1e-4)


def test_nothing_stays_behind_even_after_an_error() -> None:
    model = make_vit()
    with pytest.raises(RuntimeError, match="mine"), zoo.capture(model) as maps:
        model(tokens(1, 3, 32, 32))
        raise RuntimeError("mine")
    assert len(maps) == 2
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    model(tokens(1, 3, 32, 32))
    assert isinstance(maps["blocks.0.mixer"], Tensor)


# --- errors -------------------------------------------------------------------------------------------------------


class Shift(zoo.nn.Mixer):
    def forward(self, x: Tensor, context: Context, state: object = None) -> Tensor:
        return x.roll(1, 1)


class Opaque(Core):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object = None, bias: object = None) -> Tensor:
        return v


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"layers": "block.*"}, "no attention layer is named 'block.\\*'.*blocks.0.mixer"),
        ({"layers": 2}, "layers=2: no block with this number has attention; blocks: 0 to 1"),
        ({"rows": 2}, "rows=2 is out of range: blocks.0.mixer has 2 rows, from 0 to 1"),
        ({"heads": [0, -4]}, "heads=-4 is out of range: blocks.0.mixer has 3 heads"),
        ({"heads": []}, "at least one"),
    ],
)
def test_missing_layers_rows_and_heads_are_named(arguments: dict, said: str) -> None:
    model = make_vit()
    with pytest.raises(ValueError, match=said), zoo.capture(model, **arguments):
        model(tokens(2, 3, 32, 32))


def test_a_mixer_without_weights_raises_if_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, "shift", Shift)
    stack = make_stack(2, mixer=["shift", "attention"])
    for layers in ("0.mixer", 0, [1, "0.mixer"], "0.*"):
        with (
            pytest.raises(ValueError, match=r"0.mixer is a Shift.*choose others: layers=\[1.mixer\]"),
            zoo.capture(stack, layers=layers),
        ):
            pass
    for layers in ("*", "*.mixer", 1):
        with zoo.capture(stack, layers=layers) as maps:
            stack(tokens(1, 3, 32))
        assert list(maps) == ["1.mixer"] and maps.missing == ({} if layers == 1 else {"0.mixer": "Shift"})
    none = make_stack(1, mixer="shift")
    with pytest.raises(ValueError, match=r"0.mixer is a Shift.*no layer of this model has any"), zoo.capture(none):
        pass


def test_what_a_rollout_or_plot_does_not_show_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, "shift", Shift)
    stack = make_stack(6, mixer=["shift", "shift", "attention"])
    with zoo.capture(stack) as maps:
        stack(tokens(1, 3, 32))
    assert list(maps) == ["2.mixer", "5.mixer"]
    said = "no attention weights, and so no map: 0.mixer (Shift), 1.mixer (Shift), 3.mixer (Shift), and 1 more"
    with pytest.warns(UserWarning, match=re.escape(f"attention layers alone: these layers have {said}")):
        rolled = zoo.rollout(maps)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(rolled, zoo.rollout(dict(maps)))
    assert zoo.plot_attention(None, maps).get_supxlabel() == f"these layers have {said}"
    assert zoo.plot_attention(None, dict(maps)).get_supxlabel() == ""


def test_cores_without_weights_are_left_out_as_well() -> None:
    stack = make_stack(2, attention=[Opaque, "softmax"])
    with zoo.capture(stack) as maps:
        stack(tokens(1, 3, 32))
    assert list(maps) == ["1.mixer"] and maps.missing == {"0.mixer": "Opaque"}


def test_a_core_without_weights_and_a_model_without_attention_raise() -> None:
    with pytest.raises(ValueError, match="Opaque"), zoo.capture(make_stack(1, attention=Opaque)):
        pass
    with pytest.raises(ValueError, match=r"no attention layer of zoo\.nn"), zoo.capture(nn.Linear(2, 2)):
        pass


def test_blocks_are_found_in_every_stack() -> None:
    two = nn.ModuleDict({"encoder": make_stack(2), "decoder": make_stack(3, cross="softmax")})
    assert [name for name, _ in find_layers(two, -1).found] == ["encoder.1.mixer", "decoder.2.mixer", "decoder.2.cross"]


# --- reading maps -------------------------------------------------------------------------------------------------


def test_rollout_of_two_layers_by_hand() -> None:
    first = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    second = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    # halves with the identity: [[1, 0], [.25, .75]] and [[.5, .5], [0, 1]]; the later one stands on the left
    expected = torch.tensor([[0.625, 0.375], [0.25, 0.75]])
    assert torch.allclose(zoo.rollout([first[None, None], second[None, None]]), expected[None])
    assert torch.allclose(zoo.rollout({"a": first[None, None], "b": second[None, None]}, residual=0.0), second @ first)


def test_rollout_keeps_padding_at_zero_and_rows_at_one() -> None:
    stack = make_stack(3)
    keep = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with zoo.capture(stack) as maps:
        stack(tokens(2, 4, 32), keep=keep)
    rolled = zoo.rollout(maps)
    torch.testing.assert_close(rolled.sum(-1), keep.float())
    assert not rolled[1, :, 2:].any()


def test_rollout_takes_no_maps_of_two_sides_that_happen_to_have_the_same_size() -> None:
    model = zoo.create_model("t5_nano", depth=1).eval()
    ids = torch.arange(10).view(2, 5) + 3
    with zoo.capture(model) as maps:
        model(input_ids=ids, decoder_input_ids=ids)
    with pytest.raises(ValueError, match=r"given those of decoder.blocks.*.cross"):
        zoo.rollout(maps)
    own = {name: weights for name, weights in maps.items() if name.endswith("mixer")}
    with pytest.raises(
        ValueError, match=r"given those of encoder.blocks and decoder.blocks: .*'encoder.blocks.\*.mixer'"
    ):
        zoo.rollout(own)
    assert zoo.rollout({"encoder.blocks.0.mixer": own["encoder.blocks.0.mixer"]}).shape == (2, 5, 5)


def test_rollout_raises_for_maps_that_are_not_of_one_stack() -> None:
    two, three = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 3, 3)
    for maps in ([], [torch.ones(1, 1, 2, 3)], [[two]], [two, three]):
        with pytest.raises(ValueError, match="rollout needs"):
            zoo.rollout(maps)
    with pytest.raises(ValueError, match="residual=1"):
        zoo.rollout([torch.ones(1, 1, 2, 2)], residual=1)


def test_entropy_and_distance_by_hand() -> None:
    weights = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.25] * 4, [0.5, 0.5, 0.0, 0.0], [0.0] * 4]])[None]
    expected = (0 + math.log(4) + math.log(2)) / 3  # the last query is padding
    assert entropy(weights).shape == (1, 1)
    assert float(entropy(weights)) == pytest.approx(expected)
    # along a line: 0; (1 + 0 + 1 + 2) / 4; (2 + 1) / 2
    assert float(distance(weights)) == pytest.approx((0 + 1 + 1.5) / 3)
    # 2 x 2 grid: 0; (1 + 0 + sqrt 2 + 1) / 4; (1 + sqrt 2) / 2
    root = math.sqrt(2)
    assert float(distance(weights, (2, 2))) == pytest.approx((0 + (2 + root) / 4 + (1 + root) / 2) / 3)


def test_distance_leaves_the_prefix_out() -> None:
    patches = torch.rand(2, 3, 4, 4)
    whole = torch.rand(2, 3, 6, 6)
    whole[:, :, 2:, 2:] = patches
    torch.testing.assert_close(distance(whole, (2, 2), prefix=2), distance(patches, (2, 2)))
    with pytest.raises(ValueError, match="2 x 2"):
        distance(whole, (2, 2), prefix=1)


def test_negative_weights_have_no_entropy() -> None:
    with pytest.raises(ValueError, match="negative"):
        entropy(torch.tensor([[[[1.5, -0.5]]]]))
