"""Processes that divide the tokens of a sequence compute what one process does: outputs, gradients and training."""

import copy
from functools import partial
from typing import Any

import plan_cases
import pytest
import torch
from parallel_cases import Case, Gradients, alone, difference, double, doubled, weights_like
from ranks import ranks
from speeds import full_unless
from torch import Tensor
from torch import distributed as dist

from tests.models import test_contract as single_towers
from tests.models import test_encoder_decoder as encoder_decoders
from zoo.nn.core import CORES
from zoo.nn.recurrent_core import RecurrentCore
from zoo.parallel import Plan
from zoo.parallel.context import choose_method, context_parallel, slices_of
from zoo.parallel.token_slices import TokenSlices

# Families whose layers are not plain attention.
REFUSED = {
    "mamba": "Mamba", "mamba2": "Mamba2", "rwkv": "RWKV4", "retnet": "Retention",
    "longformer": "LongformerAttention", "set_transformer": "InducedSetAttention",
    "point_transformer": "VectorAttentionLayer",
}  # fmt: skip
DIVIDED = [name for name in single_towers.SMALL if name not in REFUSED]
IDS = torch.randint(5, 50, (3, 11), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[0, 8:], MASK[1, :4], MASK[2, 3] = 0, 0, 0
DOCUMENTS = torch.tensor([[0] * 4 + [1] * 5 + [-1] * 2, [-1, 3, 3] + [0] * 8, [7] * 11])
PADDED = {"input_ids": IDS, "attention_mask": MASK}
PACKED = {"input_ids": IDS, "document_ids": DOCUMENTS}


def family(name: str, **overrides: Any) -> Any:
    return double(single_towers.small(name, **overrides))


def encoder_decoder(name: str) -> Any:
    return double(encoder_decoders.small(name))


FAMILIES: dict[str, Case] = {name: (partial(family, name), doubled(single_towers.all_inputs(name))) for name in DIVIDED}
FAMILIES |= {
    name: (partial(encoder_decoder, name), doubled(encoder_decoders.batch_of(name)))
    for name in encoder_decoders.STACKED
}
KINDS: dict[str, Case] = {
    kind: (partial(family, "gpt2", attention=kind), PADDED) for kind in single_towers.SEQUENCE_KINDS
}
INPUTS: dict[str, Case] = {
    "rotary positions and padding": (partial(family, "llama"), PADDED),
    "documents": (partial(family, "llama", kv_heads=4), PACKED),
    "documents longer than the texts of a model": (partial(family, "gpt2", max_length=11), PACKED),
    "shared keys": (partial(family, "llama", kv_heads=1), PADDED),
    "a class token": (partial(family, "vit", **single_towers.ROWS["vit"].more["class token"]), FAMILIES["vit"][1]),
    "pooled documents": (partial(family, "bert", head="pool", pool="mean"), PACKED),
    "padding of both sides": (partial(encoder_decoder, "t5"), encoder_decoders.padded("t5")),
    "recomputed activations": (lambda: recomputed(family("modernbert")), PADDED),
}


def recomputed(model: Any) -> Any:
    model.set_checkpointing()
    return model


def divided(rank: int, cases: dict[str, Case], method: Any) -> dict[str, tuple[Tensor, Gradients]]:
    """The whole output of each case, and the gradients averaged over the processes."""
    found = {}
    for name, (make, batch) in cases.items():
        model = context_parallel(make(), dist.group.WORLD, method)
        y, slices = model(**batch), slices_of(model)
        tokens = batch.get("decoder_input_ids", batch.get("input_ids"))
        whole = y if slices is None else slices.gather(y.detach(), 11 if tokens is None else tokens.shape[1])
        if slices is None:
            loss = (y * weights_like(y)).mean()
        else:
            loss = (y * slices.take(weights_like(whole))).sum() * slices.ranks / whole.numel()
        loss.backward()
        gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
        for gradient in gradients.values():
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()
        found[name] = whole.detach(), gradients
    return found


def check(world: int, cases: dict[str, Case], method: str | None = None) -> None:
    found = ranks(world, divided, cases, method)
    for name, case in cases.items():
        y, gradients = alone(case)
        for rank in range(world):
            whole, own = found[rank][name]
            assert float((whole - y).abs().max() / y.abs().max()) < 1e-12, name
            assert difference(own, gradients) < 1e-12, name


@pytest.mark.parametrize("names", [list(FAMILIES)[i::3] for i in range(3)], ids=["first", "second", "third"])
def test_families(names: list[str]) -> None:
    check(2, {name: FAMILIES[name] for name in names})


@pytest.mark.parametrize("half", full_unless([0], [0, 1]))
def test_kinds_with_all_tokens_of_some_heads(half: int) -> None:
    check(4 if half else 2, {kind: KINDS[kind] for kind in list(KINDS)[half::2]}, "ulysses")


def test_kinds_with_all_keys() -> None:
    check(2, {kind: case for kind, case in KINDS.items() if not issubclass(CORES[kind], RecurrentCore)}, "gather")


@pytest.mark.parametrize("method", ["gather", None])
def test_inputs(method: str | None) -> None:
    check(4 if method is None else 2, INPUTS, method)


def multimodal(rank: int, cases: dict[str, tuple[Any, dict[str, Any]]]) -> dict[str, Gradients]:
    """The gradients of models whose processes have the same output, averaged over these."""
    found = {}
    for name, (model, batch) in cases.items():
        plan_cases.gradients_of(context_parallel(model, dist.group.WORLD), batch)
        found[name] = {key: torch.zeros_like(p) if p.grad is None else p.grad for key, p in model.named_parameters()}
        for gradient in found[name].values():
            dist.all_reduce(gradient)
            gradient /= 2
    return found


def test_models_of_several_towers() -> None:
    cases = {name: plan_cases.small(name) for name in ("bridge", "coca", "contrast", "dalle", "paligemma")}
    inputs = {name: (model, plan_cases.batch_of(model)) for name, model in cases.items()}
    found = ranks(2, multimodal, inputs)
    for name, (model, batch) in inputs.items():
        expected = plan_cases.gradients_of(model, batch)
        assert difference(found[0][name], expected) < 1e-12 > difference(found[1][name], expected), name


# --- Training ---------------------------------------------------------------------------------------------------------


def steps(model: Any, slices: TokenSlices | None) -> list[float]:
    """Losses of 20 steps of AdamW with clipped gradients and a moving average, and that of the average at the end."""
    ids = torch.randint(5, 50, (20, 2, 13), generator=torch.Generator().manual_seed(3))
    labels = torch.where(ids % 5 == 0, -100, ids.roll(-1, 2))
    optimizer, average = torch.optim.AdamW(model.parameters(), lr=3e-3), copy.deepcopy(model)

    def loss_of(trained: Any, step: int) -> Tensor:
        logits = trained(input_ids=ids[step])
        if slices is None:
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[step].flatten())
        return slices.cross_entropy(logits, labels[step])

    losses = []
    for step in range(20):
        loss = loss_of(model, step)
        optimizer.zero_grad()
        loss.backward()
        if slices is not None:
            for parameter in model.parameters():
                parameter.grad.copy_(slices.sum(parameter.grad) / slices.ranks)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 0.1)
        losses.append(loss.detach())
    losses.append(loss_of(average, 0).detach())
    return [float(loss if slices is None else slices.sum(loss) / slices.ranks) for loss in losses]


def divided_steps(rank: int) -> list[float]:
    model = context_parallel(family("llama", kv_heads=2), dist.group.WORLD)
    return steps(model, slices_of(model))


def test_twenty_steps() -> None:
    expected = steps(family("llama", kv_heads=2), None)
    assert expected[-2] < expected[0] - 0.1
    for losses in ranks(2, divided_steps):
        assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) < 1e-10


# --- What stays, and what is refused ----------------------------------------------------------------------------------


def names_and_errors(rank: int) -> tuple[list[str], list[str]]:
    model = context_parallel(family("gpt2"), dist.group.WORLD)
    errors = []
    for call in (
        lambda: model(input_ids=IDS[:, :1]),
        lambda: model.decode(IDS, model.new_state(3)),
        lambda: model.blocks[0](torch.zeros(1, 4, 32, dtype=torch.float64)),
        lambda: slices_of(model).cross_entropy(torch.zeros(3, 4, 5), IDS),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        errors.append(str(caught.value))
    return list(model.state_dict()), errors


def test_names_stay_and_errors_say_what_to_do() -> None:
    names, errors = ranks(2, names_and_errors)[0]
    assert names == list(family("gpt2").state_dict())
    expected = ("choose context=1 or less", "a copy of the model without it", "call the model", "labels of the whole")
    for error, part in zip(errors, expected, strict=True):
        assert part in error


def test_slices_differ_by_a_token() -> None:
    slices = [TokenSlices(None, rank, 4) for rank in range(4)]  # type: ignore[arg-type]
    assert slices[0].sizes(11) == [3, 3, 3, 2]
    x = torch.arange(22).view(2, 11)
    assert torch.equal(torch.cat([one.take(x) for one in slices], 1), x)


@pytest.mark.parametrize("name", REFUSED)
def test_layers_that_read_tokens_in_an_order_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"blocks\.0 cannot divide .*{REFUSED[name]}"):
        choose_method(single_towers.small(name).blocks, "blocks", 2, None)


def test_models_whose_tokens_cannot_be_divided_are_refused_before_a_run() -> None:
    with pytest.raises(ValueError, match=r"Idefics has gated cross-attention .* use data=, shard= or tensor="):
        Plan(context=2).check(plan_cases.small("idefics"))
    with pytest.raises(ValueError, match="Linear has no stack of blocks"):
        Plan(context=2).check(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("overrides", "ranks", "method", "message"),
    [
        ({}, 3, "ulysses", "heads=4 cannot be divided over 3 processes: choose a divisor of 4"),
        ({"kv_heads": 1}, 2, "ulysses", "kv_heads=1 cannot be divided over 2 processes"),
        ({"attention": "performer"}, 3, None, "method='gather', blocks.0: attention='performer' is a recurrence"),
        ({"drop_path": 0.2}, 2, None, "blocks.1 cannot .* drop_path=0.2 skips all tokens of a sample"),
        ({"mlp_dim": 8, "attention": "delta"}, 3, "gather", "attention='delta' is a recurrence over the tokens"),
    ],
)
def test_what_cannot_be_divided_says_why(overrides: dict, ranks: int, method: Any, message: str) -> None:
    model = single_towers.small("llama", **overrides)
    with pytest.raises(ValueError, match=message):
        choose_method(model.blocks, "blocks", ranks, method)
