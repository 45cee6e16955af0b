"""Every family under every plan: the gradients of several processes are those of one, in float64."""

import warnings
from functools import cache
from typing import Any

import pytest
from plan_cases import FAMILIES, batch_of, gradients_of, part_of_this_rank, small
from ranks import ranks
from speeds import full_unless
from torch import Tensor
from torch.distributed.tensor import DTensor

import zoo
from zoo.parallel import Plan, batch_mesh, parallelize

# Their mixers are recurrences over channels, or attention to learned points or by channels; or they have convolutions
# and recurrent networks alone.
UNDIVIDED = (
    "dvae", "mamba", "mamba2", "point_transformer", "retnet", "rnn_seq2seq", "rwkv", "set_transformer",
)  # fmt: skip
SOME = ("clip", "coca", "gemma", "idefics", "longformer", "t5", "wav2vec2")  # of each kind, for four processes
# Nothing of copies looks into a model: those whose loss is of pairs, with tied weights, or without a transformer.
COPIED = (*SOME, "bridge", "contrast", "dalle", "dvae", "gpt2", "rnn_seq2seq", "rwkv", "siglip")
DIVIDED = tuple(name for name in FAMILIES if name not in UNDIVIDED)


@cache
def case(name: str) -> tuple[zoo.Model, dict[str, Any], dict[str, Tensor]]:
    """(a model, a batch, the gradients of one process)."""
    model = small(name)
    batch = batch_of(model)
    found = {key: value.clone() for key, value in gradients_of(model, batch).items()}
    model.zero_grad()
    return model, batch, found


def differences(rank: int, plan: Plan, names: tuple[str, ...]) -> dict[str, float]:
    """{family: the largest difference of a gradient that this process holds, relative to the largest of its kind}."""
    warnings.simplefilter("ignore")
    mesh, found = plan.mesh("cpu"), {}
    ranks_of_batch = batch_mesh(mesh)
    part = ranks_of_batch.get_local_rank()
    for name in names:
        model, batch, whole = case(name)
        parallelize(model, plan, mesh)
        own = {key: x.chunk(plan.batch_parts)[part] for key, x in batch.items()}
        gradients = gradients_of(model, own, ranks_of_batch.get_group())
        assert gradients.keys() == whole.keys(), f"{name}: {gradients.keys() ^ whole.keys()}"
        largest = max(float(x.abs().max()) for x in whole.values())
        for key, value in model.named_parameters():
            if key in whole:
                mine = value.grad._local_tensor if isinstance(value.grad, DTensor) else value.grad
                theirs = part_of_this_rank(whole[key].reshape(value.shape), value)  # a scalar may be a vector now
                assert mine.shape == theirs.shape, f"{name}: {key}: {mine.shape} {theirs.shape}"
                error = float((mine - theirs).abs().max()) if mine.numel() else 0.0
                error /= max(float(whole[key].abs().max()), 1e-3 * largest)
                found[name] = max(found.get(name, 0.0), error)
    return found


PLANS = {
    "copies": (Plan(data=2), COPIED),
    "copies of all": (Plan(data=2), FAMILIES),
    "shards": (Plan(shard=2), FAMILIES),
    "copies of shards": (Plan(data=2, shard=2), SOME),
    "heads": (Plan(tensor=2), DIVIDED),
    "heads and tokens": (Plan(tensor=2, sequence=True), DIVIDED),
    "four parts": (Plan(tensor=4, sequence=True), SOME),
    "four parts of all": (Plan(tensor=4, sequence=True), DIVIDED),
    "shards of parts": (Plan(tensor=2, shard=2), SOME),
    "copies of parts": (Plan(tensor=2, data=2, sequence=True), SOME),
}


@pytest.mark.parametrize(
    "name", full_unless(("shards", "copies of shards", "heads and tokens", "shards of parts"), PLANS)
)
def test_gradients_are_those_of_one_process(name: str) -> None:
    plan, names = PLANS[name]
    for family in names:
        case(family)
    for found in ranks(plan.world, differences, plan, names, timeout=300):
        assert found.keys() == set(names)
        wrong = {family: error for family, error in found.items() if not error <= 1e-12}
        assert not wrong, wrong
