"""Edits change exactly what is named, alike on padded, packed and cached tokens, and leave no trace."""

import re
import threading
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
from gpu_twin import choose_as_on_a_gpu
from torch import Tensor, nn

import zoo
from zoo.interpret.edits import Edit
from zoo.models.example_batch import example_batch
from zoo.nn import CAUSAL, BlockConfig, Context, PaddingMask, Stack, initialize
from zoo.nn.registry import BUILT_IN, MIXERS
from zoo.nn.rotary import rotary

KEEP = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [0, 0] + [1] * 5])


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_stack(depth: int = 2, *, cross: str | None = None, **fields: object) -> Stack:
    spec = BlockConfig(**{"width": 32, "heads": 4, "kv_heads": 2, "attention": "softmax"} | fields)  # type: ignore[arg-type]
    stack = spec.stack(depth, cross=cross)
    initialize(stack, 0)
    with torch.no_grad():
        for p in stack.parameters():
            p.add_(0.3 * tokens(*p.shape, seed=p.numel()))
    return stack.eval()


def run(stack: Stack, x: Tensor, edits: dict, *context: Context, **options: object) -> Tensor:
    with torch.no_grad(), zoo.intervene(stack, edits):
        return stack(x, *context, **options)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * max(1.0, expected.abs().max().item()))


# --- what each edit computes ----------------------------------------------------------------------------------------


def test_a_head_of_zeros_is_one_without_its_columns_of_the_output_projection() -> None:
    stack, x = make_stack(), tokens(3, 7, 32)
    plain = stack(x)
    found = run(stack, x, {"1.mixer": zoo.ablate(heads=[2, -4])})
    with torch.no_grad():
        for head in (2, 0):
            stack[1].mixer.out.weight[:, 8 * head : 8 * head + 8] = 0
    close(found, stack(x))
    assert not torch.allclose(found, plain)


def test_the_mean_and_that_of_a_reference() -> None:
    stack, x = make_stack(), tokens(3, 7, 32)
    with zoo.capture(stack, "head_output") as clean:
        stack(x, keep=KEEP)
    values = clean["0.mixer"]
    mean = torch.cat([values[row][:, KEEP[row].bool()] for row in range(3)], 1).mean(1)  # H P
    edit = zoo.patch(mean[:, None], heads=[1, 3])
    expected = run(stack, x, {"0.mixer": edit}, keep=KEEP)
    for by in ("mean", values, mean[:, None]):
        close(run(stack, x, {"0.mixer": zoo.ablate(heads=[1, 3], by=by)}, keep=KEEP), expected)


def test_an_mlp_a_block_and_a_mixer() -> None:
    stack, x = make_stack(), tokens(2, 5, 32)
    block = stack[1]
    with zoo.capture(stack, "residual") as residual:
        stack(x)
    first = residual["0"]
    close(run(stack, x, {"1.mlp": zoo.ablate()}), stack.norm(first + block.mixer(block.norm1(first), Context())))
    close(run(stack, x, {"1": zoo.patch(first)}), stack.norm(first))
    without = run(stack, x, {"1.mixer": zoo.ablate(what="mixer")})
    close(without, stack.norm(first + block.mlp(block.norm2(first))))
    assert not torch.allclose(without, run(stack, x, {"1.mixer": zoo.ablate()}))  # the bias of the projection is left


def test_patching_all_of_another_run_gives_that_run_and_a_place_of_it_only_that_place() -> None:
    stack, x, other = make_stack(1), tokens(2, 5, 32), tokens(2, 5, 32, seed=1)
    plain, target = stack(x), stack(other)
    for what in ("residual", "mlp", "head_output"):
        with zoo.capture(stack, what) as clean:
            stack(other)
        name = next(iter(clean))
        found = run(stack, x, {name: zoo.patch(clean[name], rows=1, positions=[0, -1])})
        assert torch.equal(found[0], plain[0]) and torch.equal(found[1, 1:4], plain[1, 1:4])
        assert not torch.allclose(found[1, [0, -1]], plain[1, [0, -1]])
        if what == "residual":
            close(found[1, [0, -1]], target[1, [0, -1]])
        chosen = clean[name][1:] if what != "head_output" else clean[name][1:, :, [0, 4]]  # whole or chosen sizes
        assert torch.equal(found, run(stack, x, {name: zoo.patch(chosen, rows=1, positions=[0, -1])}))


@pytest.mark.parametrize("kind", BUILT_IN)
def test_a_map_is_multiplied_with_the_values(kind: str) -> None:
    stack, x, other = make_stack(1, attention=kind), tokens(2, 16, 32), tokens(2, 16, 32, seed=1)
    same = run(stack, x, {"0.mixer": zoo.patch(lambda w: w, what="attention")})
    close(same, stack(x).detach())
    with zoo.capture(stack) as maps:
        stack(other)
    with zoo.capture(stack, "head_output") as outputs, zoo.capture(stack, "v") as values:
        found = run(stack, x, {"0.mixer": zoo.patch(maps["0.mixer"], heads=[3, 0], what="attention")})
    v = values["0.mixer"].repeat_interleave(2, 1)
    close(outputs["0.mixer"][:, [3, 0]], (maps["0.mixer"] @ v)[:, [3, 0]])
    with zoo.capture(stack, "head_output") as plain:
        stack(x)
    assert torch.equal(outputs["0.mixer"][:, [1, 2]], plain["0.mixer"][:, [1, 2]])
    assert not torch.allclose(found, same)


def test_queries_keys_and_values_are_those_that_enter_the_core() -> None:
    stack, x, other = make_stack(1, qk_norm=True), tokens(2, 6, 32), tokens(2, 6, 32, seed=1)
    context, clean = Context(CAUSAL, rotary=rotary(torch.arange(6), 8)), {}
    for what in ("q", "k", "v", "head_output"):
        with zoo.capture(stack, what) as found:
            stack(other, context)
        clean[what] = found["0.mixer"]
    edits = [zoo.patch(clean[what], what=what) for what in "qkv"]
    with zoo.capture(stack, "head_output") as outputs:
        run(stack, x, {0: edits}, context)
    close(outputs["0.mixer"], clean["head_output"])
    chosen = [zoo.patch(clean["q"], heads=[1], what="q"), zoo.patch(clean["v"], heads=[1], positions=0, what="v")]
    captured = {what: zoo.capture(stack, what) for what in ("q", "k", "v", "head_output")}
    with ExitStack() as contexts:
        found = {what: contexts.enter_context(each) for what, each in captured.items()}
        run(stack, x, {0: chosen}, context)
    q, k, v, y = (each["0.mixer"] for each in found.values())
    assert torch.equal(q[:, 1], clean["q"][:, 1]) and torch.equal(v[:, 1, 0], clean["v"][:, 1, 0])
    assert not torch.equal(q[:, 0], clean["q"][:, 0]) and not torch.equal(v[:, 1, 1:], clean["v"][:, 1, 1:])
    close(y, stack[0].mixer.core(q, k, v, CAUSAL))
    assert torch.equal(run(stack, x, {0: zoo.patch(lambda v: v, what="v")}, context), stack(x, context))


def test_the_mean_of_a_map_is_equal_weights_for_what_a_query_may_see() -> None:
    stack, x = make_stack(1, attention={"kind": "local", "window": 4}, causal=True), tokens(2, 6, 32)
    context = Context(CAUSAL)
    with torch.no_grad():
        stack[0].mixer.q.weight.mul_(1000)  # weights of exactly zero, which are seen all the same
    with zoo.capture(stack, "head_output") as outputs, zoo.capture(stack, "v") as values:
        run(stack, x, {0: zoo.ablate(by="mean", heads=1, positions=[0, 5], what="attention")}, context)
    seen = values["0.mixer"][:, 0]
    close(outputs["0.mixer"][:, 1, 0], seen[:, 0])
    window = next(
        n for n in range(2, 6) if torch.allclose(outputs["0.mixer"][:, 1, 5], seen[:, -n:].mean(1), atol=1e-4)
    )
    assert window == stack[0].mixer.core.pattern.left + 1
    reference = torch.rand(3, 4, 6, 6)
    close(
        run(stack, x, {0: zoo.ablate(by=reference, what="attention")}, context),
        run(stack, x, {0: zoo.patch(reference.mean(0), what="attention")}, context),
    )


# --- layouts --------------------------------------------------------------------------------------------------------


EDITS: dict[str, Callable[[], dict[str | int, Edit | list[Edit]]]] = {
    "head": lambda: {"1.mixer": zoo.ablate(heads=[1, 2])},
    "means": lambda: {"*.mlp": zoo.ablate(by="mean"), "0.mixer": zoo.ablate(0, by="mean", rows=[0, 2])},
    "residual": lambda: {"0": zoo.patch(lambda x: x + x.mean(1, keepdim=True), positions=[3, 4, 5])},
    "patched": lambda: {"0": zoo.patch(tokens(3, 7, 32, seed=2), rows=[1, 2]), "1.mixer": zoo.patch(tokens(4, 1, 8))},
    "map": lambda: {-1: zoo.patch(lambda w: 0.5 * w.flip(1), what="attention", rows=[0, 1], positions=[2, 3])},
    "map means": lambda: {"*.mixer": [zoo.ablate(0, by="mean", what="attention"), zoo.ablate(3, what="attention")]},
    "given map": lambda: {"0.mixer": zoo.patch(torch.rand(3, 1, 7, 7, generator=torch.Generator().manual_seed(5))
                                               * KEEP[:, None, None], heads=2, what="attention")},
    "queries": lambda: {"*.mixer": zoo.ablate([0, 3], by="mean", what="q"),
                        1: zoo.patch(lambda q: q.flip(1), rows=[0, 2], positions=[3, 4], what="q")},
    "keys and values": lambda: {"0.mixer": [zoo.ablate(1, by="mean", what="k"), zoo.ablate(0, what="v", rows=1)],
                                "1.mixer": zoo.patch(tokens(2, 1, 8, seed=7), positions=[3], what="k")},
}  # fmt: skip


@pytest.mark.parametrize("layout", ["groups", "packed", "padded"])
@pytest.mark.parametrize("name", EDITS)
def test_packed_and_padded_rows_are_edited_alike(name: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stack, x, edits = make_stack(), tokens(3, 7, 32), EDITS[name]()
    expected = run(stack, x, edits, keep=KEEP, drop_padding=False)
    if layout != "groups":
        choose_as_on_a_gpu(monkeypatch, flash_takes=(torch.float32,) if layout == "packed" else ())
    found = run(stack, x, edits, keep=KEEP)
    close(found, expected)
    assert not torch.allclose(found, stack(x, keep=KEEP)) and not found[~KEEP.bool()].any()


@pytest.mark.parametrize("kind", ["softmax", "local", "linear"])
@pytest.mark.parametrize("name", ["head", "residual", "map", "map means", "queries", "keys and values"])
def test_decoding_with_a_cache_is_the_whole_text(name: str, kind: str) -> None:
    attention = {"kind": kind, "window": 4} if kind == "local" else kind
    stack, x, context = make_stack(attention=attention, causal=True), tokens(3, 7, 32), Context(CAUSAL)
    edits = EDITS[name]() if name != "residual" else {"0": zoo.patch(lambda x: 2 * x, positions=[1, 4])}
    if name == "queries":  # a mean would be that of each step
        edits = {"*.mixer": zoo.patch(lambda q: q.flip(1), rows=[0, 2], positions=[1, 3, 4], what="q")}
    if name == "keys and values":
        edits = {"*.mixer": [zoo.ablate(1, what="k"), zoo.patch(lambda v: 2 * v, positions=[0, 3, 5], what="v")]}
    expected, state = run(stack, x, edits, context), stack.new_state(3, 8, x)
    if kind == "linear" and "map" in name:
        with pytest.raises(ValueError, match="LinearAttention decodes without"):
            run(stack, x, edits, context, state=state)
        return
    with torch.no_grad(), zoo.intervene(stack, edits):
        parts = [stack(part, context, state=state) for part in (x[:, :3], x[:, 3:4], x[:, 4:])]
    close(torch.cat(parts, 1), expected)


def test_a_list_of_values_has_one_for_each_run() -> None:
    stack, x, context = make_stack(1, causal=True), tokens(2, 4, 32), Context(CAUSAL)

    def decode() -> Tensor:
        state = stack.new_state(2, 8, x)
        return torch.cat([stack(part, context, state=state) for part in (x[:, :2], x[:, 2:])], 1)

    with zoo.capture(stack) as maps:
        decode()
    x = tokens(2, 4, 32, seed=3)
    with zoo.intervene(stack, {0: zoo.patch(maps["0.mixer"], what="attention")}), zoo.capture(stack) as edited:
        decode()
    assert all(torch.equal(a, b) for a, b in zip(maps["0.mixer"], edited["0.mixer"], strict=True))
    edits = {0: zoo.patch(maps["0.mixer"], what="attention")}
    with pytest.raises(ValueError, match=r"0.mixer runs for the 3. time, and there are 2"), zoo.intervene(stack, edits):
        decode()
        decode()
    chosen = {0: zoo.patch(lambda w: 2 * w, positions=[3], what="residual")}
    with zoo.capture(stack, "residual") as values, zoo.intervene(stack, chosen):
        decode()
    again = {0: zoo.patch(values["0"], positions=[3], what="residual")}  # the first run has no position 3
    with zoo.capture(stack, "residual") as found, zoo.intervene(stack, again):
        decode()
    assert all(torch.equal(a, b) for a, b in zip(found["0"], values["0"], strict=True))


def test_cross_attention() -> None:
    stack = make_stack(1, cross="softmax", causal=True)
    x, memory = tokens(2, 4, 32), tokens(2, 6, 32, seed=1)
    context = Context(CAUSAL, memory=memory, memory_mask=PaddingMask(torch.tensor([[1] * 6, [1] * 4 + [0] * 2])))
    with zoo.capture(stack, "k") as keys, zoo.capture(stack, "head_output") as outputs:
        stack(x, context)
    assert keys["0.cross"].shape == (2, 2, 6, 8) and not keys["0.cross"][1, :, 4:].any()
    swapped = run(stack, x, {"0.cross": zoo.patch(outputs["0.cross"].flip(0), heads=1)}, context)
    assert not torch.allclose(swapped, stack(x, context))
    same = run(stack, x, {"*.cross": zoo.patch(lambda w: w, what="attention")}, context)
    close(same, stack(x, context).detach())
    edits = {"0.cross": [zoo.ablate(0, by="mean", what="k"), zoo.patch(lambda v: 2 * v, positions=[1, 5], what="v"),
                         zoo.ablate(heads=3, positions=3, what="q")]}  # fmt: skip
    with zoo.capture(stack, "k") as edited:
        expected = run(stack, x, edits, context)
    mean = torch.cat([keys["0.cross"][0], keys["0.cross"][1, :, :4]], 1)[0].mean(0)
    close(edited["0.cross"][0, 0], mean.expand(6, 8))
    assert torch.equal(edited["0.cross"][:, 1], keys["0.cross"][:, 1]) and not edited["0.cross"][1, :, 4:].any()
    state = stack.new_state(2, 8, x)
    with torch.no_grad():
        first = stack(x[:, :2], context, state=state)  # the cache has the keys and values of the memory as they are
        with zoo.intervene(stack, edits):
            second = stack(x[:, 2:], context, state=state)
    close(second, expected[:, 2:])
    close(first, stack(x, context)[:, :2])


class Shift(zoo.nn.Mixer):
    def forward(self, x: Tensor, context: Context, state: object = None) -> Tensor:
        return x.roll(1, 1)


def test_mixers_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, "shift", Shift)
    stack, x = make_stack(2, mixer=["shift", "attention"]), tokens(3, 7, 32)
    with zoo.capture(stack, "mixer") as outputs:
        plain = stack(x, keep=KEEP)
    assert list(outputs) == ["0.mixer", "1.mixer"] and not outputs["0.mixer"][~KEEP.bool()].any()
    with zoo.capture(stack, "mixer") as edited:
        found = run(stack, x, {"0.mixer": zoo.patch(lambda y: y - y.mean(1, keepdim=True))}, keep=KEEP)
    assert not torch.allclose(found, plain)
    close(edited["0.mixer"][0], outputs["0.mixer"][0] - outputs["0.mixer"][0].mean(0))
    with pytest.raises(ValueError, match=r"0.mixer is a Shift, which has no attention weights; choose others"):
        run(stack, x, {"0.mixer": zoo.ablate(what="attention")})
    with pytest.raises(ValueError, match=r"0.mixer is a Shift, which has no attention heads"):
        run(stack, x, {"0.mixer": zoo.ablate(what="head_output")})
    with pytest.raises(ValueError, match=r"heads=\[1\]: '0.mixer' is edited as what='mixer'"):
        run(stack, x, {"0.mixer": zoo.ablate(heads=1)})
    assert "mix_rows" not in vars(stack[0]) and torch.equal(stack(x, keep=KEEP), plain)


# --- contexts -------------------------------------------------------------------------------------------------------


def test_nothing_stays_behind_even_after_an_error() -> None:
    stack, x = make_stack(causal=True), tokens(3, 7, 32)
    plain = stack(x)
    edits = {"*.mixer": [zoo.ablate(1), zoo.ablate(0, by="mean", what="attention"), zoo.ablate(what="k")],
             "0.mlp": zoo.ablate()}  # fmt: skip
    with pytest.raises(RuntimeError, match="mine"), zoo.intervene(stack, edits):
        assert not torch.equal(stack(x), plain)
        raise RuntimeError("mine")
    assert torch.equal(stack(x), plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in stack.modules())
    assert not any({"decode", "mix_rows", "decode_of_thread"} & set(vars(m)) for m in stack.modules())


def test_nested_contexts_and_what_capture_shows() -> None:
    stack, x = make_stack(1), tokens(2, 5, 32)
    double, one = zoo.patch(lambda y: 2 * y), zoo.patch(lambda y: y + 1)
    attention = [("0.mixer", what) for what in ("attention", "head_output", "q", "v")]
    for name, what in (("0.mlp", "mlp"), *attention, ("0", "residual")):
        first, second = ({name: zoo.patch(edit.values, what=what)} for edit in (double, one))
        with zoo.capture(stack, what) as plain:
            stack(x)
        with (
            zoo.capture(stack, what) as around, zoo.intervene(stack, first), zoo.intervene(stack, second),
            zoo.capture(stack, what, rows=[1]) as inside,
        ):  # fmt: skip
            stack(x)
        close(around[name], 2 * plain[name] + 1)
        assert torch.equal(inside[name], around[name][1:])
        with zoo.intervene(stack, {name: [first[name], second[name]]}), zoo.capture(stack, what) as listed:
            stack(x)
        assert torch.equal(listed[name], around[name])


def test_other_threads_compute_as_always() -> None:
    stack, x = make_stack(), tokens(2, 5, 32)
    plain, found = stack(x), []
    with zoo.intervene(stack, {"*.mixer": [zoo.ablate(0), zoo.ablate(1, what="attention")]}):
        other = threading.Thread(target=lambda: found.append(stack(x)))
        other.start()
        other.join()
        assert not torch.equal(stack(x), plain)
    assert torch.equal(found[0], plain)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_edited_model(checkpointing: bool) -> None:
    stack, x = make_stack().double(), tokens(2, 5, 32).double().requires_grad_()
    scale = torch.tensor(0.5, dtype=torch.double, requires_grad=True)
    edits = {
        "0.mixer": [zoo.patch(lambda w: scale * w, 1, what="attention"), zoo.ablate(2)],
        "1.mixer": [zoo.patch(lambda q: scale * q, what="q"), zoo.ablate(1, by="mean", what="v")],
        "1.mlp": zoo.patch(lambda y: scale * y),
        "0": zoo.ablate(by="mean", positions=1),
    }
    stack.checkpointing = checkpointing

    def loss(x: Tensor, scale: Tensor) -> Tensor:
        with zoo.intervene(stack, edits):
            return stack(x).square().sum()

    def backward() -> Tensor:
        with zoo.intervene(stack, edits):  # also around the recomputation
            total = stack(x).square().sum()
            total.backward()
            return total.detach()

    base = backward()
    assert x.grad is not None and scale.grad is not None
    with torch.no_grad():
        for value, gradient in ((scale, scale.grad), (x, x.grad)):
            value.view(-1)[-1] += 1e-6
            assert float((loss(x, scale) - base) / 1e-6) == pytest.approx(float(gradient.view(-1)[-1]), rel=1e-3)
            value.view(-1)[-1] -= 1e-6


def test_compiled_and_wrapped_models() -> None:
    model = zoo.create_model("vit_cifar_tiny", seed=0, depth=2).eval()
    x, edits = tokens(2, 3, 32, 32), {"blocks.1.mixer": zoo.ablate(1)}
    plain = model(x)
    with zoo.intervene(model, edits):
        expected = model(x)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(x)
    with zoo.intervene(compiled, edits):
        assert torch.equal(compiled(x), expected)
    assert torch.equal(compiled(x), plain) and not torch.equal(expected, plain)


@pytest.mark.parametrize(("name", "layer"), [("longformer_nano", "blocks.0.mixer"), ("evoformer_nano", 0)])
def test_attention_with_a_forward_of_its_own(name: str, layer: str | int) -> None:
    model = zoo.create_model(name, seed=0).eval()
    batch = example_batch(model)
    edits = {layer: zoo.ablate(what="v")}
    with torch.no_grad(), zoo.capture(model, "head_output", layers=layer) as outputs, zoo.intervene(model, edits):
        model(**batch)
    for values in outputs.values():
        used = values.transpose(1, 2).flatten(2).any(-1)  # global tokens have values of their own
        assert torch.equal(used, batch["global_attention_mask"].bool() if name == "longformer_nano" else used & False)


@pytest.mark.parametrize("name", ["gpt_nano", "t5_nano", "mamba_nano"])
def test_generated_texts_are_those_of_the_edited_model(name: str) -> None:
    model = zoo.create_model(name, seed=0).eval()
    ids, last = torch.tensor([[5, 6, 7, 8]]), "decoder.blocks.1" if name == "t5_nano" else "blocks.1"
    vector = tokens(model.config.width, seed=4) * 30
    edits = {last: zoo.patch(lambda x: x + vector)}
    if name == "gpt_nano":
        edits["*.mixer"] = [zoo.patch(lambda k: 3 * k, what="k"), zoo.patch(lambda v: -v, what="v")]
    plain = zoo.generate(model, ids, max_new_tokens=4, eos_token_id=[])
    with zoo.intervene(model, edits):
        found = zoo.generate(model, ids, max_new_tokens=4, eos_token_id=[])
        start = torch.full((1, 1), 0) if name == "t5_nano" else ids
        for _ in range(4):
            inputs = {"input_ids": ids, "decoder_input_ids": start} if name == "t5_nano" else {"input_ids": start}
            start = torch.cat([start, model(**inputs)[:, -1].argmax(-1, keepdim=True)], 1)
    expected = start[:, -4:]
    assert found[:, -4:].tolist() == expected.tolist() and plain[:, -4:].tolist() != expected.tolist()


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"2.mixer": zoo.ablate()}, "no module to edit is named '2.mixer'; did you mean '1.mixer'"),
        ({"*.cross": zoo.ablate()}, r"no module to edit is named '\*.cross'"),
        ({5: zoo.ablate(what="mlp")}, "layers=5: no block with this number has an MLP; blocks: 0 to 1"),
        ({0: zoo.ablate()}, r"0 names modules of several kinds: 0.mlp \(mlp\), 0 \(residual\), 0.mixer \(head"),
        ({"0.mlp": zoo.ablate(heads=1)}, r"heads=\[1\]: '0.mlp' is edited as what='mlp', which has no heads"),
        ({"0.mixer": zoo.ablate(heads=4)}, "heads=4 is out of range: 0.mixer has 4 heads"),
        ({"0.mixer": zoo.ablate(heads=2, what="k")}, "heads=2 is out of range: 0.mixer has 2 heads"),
        ({"0.mixer": zoo.patch(torch.ones(2, 4, 5, 8), what="v")}, r"are \(2, 4, 5, 8\): expected \(2, 2, 5, 8\)"),
        ({"0.mixer": zoo.ablate(rows=2)}, "rows=2 is out of range: 0.mixer has 2 rows"),
        ({"0": zoo.ablate(positions=[0, 5])}, "positions=5 is out of range: 0 has 5 positions"),
        ({"0": zoo.patch(torch.ones(2, 4, 32))}, r"values for 0 are \(2, 4, 32\): expected \(2, 5, 32\)"),
        ({"0.mixer": zoo.patch(torch.ones(3, 5, 8), heads=[0, 1])}, r"expected \(2, 4, 5, 8\).* or \(2, 2, 5, 8\)"),
        ({"0.mixer": zoo.patch(torch.ones(4, 5, 4), what="attention")}, r"are \(4, 5, 4\): expected \(2, 4, 5, 5\)"),
        ({"0": zoo.patch(lambda x: x[:1])}, r"the function for 0 returned \(1, 5, 32\)"),
        ({"0": zoo.patch(lambda x: None)}, "the function for 0 returned NoneType"),
        ({"0": torch.ones(2, 5, 32)}, "the edit of '0' is a Tensor: expected zoo.ablate"),
        ([zoo.ablate()], "edits: expected a dictionary"),
    ],
)  # fmt: skip
def test_what_cannot_be_edited_is_said(edits: dict, said: str) -> None:
    stack, x = make_stack(), tokens(2, 5, 32)
    with pytest.raises(ValueError, match=said), zoo.intervene(stack, edits):
        stack(x)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: zoo.ablate(by="max"), "by='max': expected 'zero', 'mean'"),
        (lambda: zoo.ablate(what="keys"), "what='keys': expected one of 'head_output', 'attention', 'q', 'k', 'v'"),
        (lambda: zoo.ablate(heads=0, what="mlp"), "heads=0: what='mlp' has no heads"),
        (lambda: zoo.ablate(heads=[]), "at least one integer"),
        (lambda: zoo.patch("zero"), "values: expected a tensor"),
        (lambda: zoo.patch([]), "given a list"),
        (lambda: zoo.intervene(nn.Linear(2, 2), {"0": zoo.ablate()}).__enter__(), "Linear has no block of zoo.nn"),
        (lambda: zoo.intervene("model", {}).__enter__(), "expected a zoo.Model, given a str"),
    ],
)
def test_options_are_checked(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        make()


def test_an_edit_that_is_never_applied_warns() -> None:
    stack, x = make_stack(causal=True), tokens(2, 5, 32)
    with pytest.warns(UserWarning, match=r"edits of \[1.mlp\] were never applied"):  # noqa: SIM117
        with zoo.intervene(stack, {"1.mlp": zoo.ablate()}):
            stack[0](x)
    with pytest.warns(UserWarning, match="or not at the chosen positions"):  # noqa: SIM117
        with zoo.intervene(stack, {"1": zoo.ablate(positions=9)}):
            stack(x, Context(CAUSAL), state=stack.new_state(2, 8, x))
