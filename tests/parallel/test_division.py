"""What processes hold of a model, what is refused and why, the vocabulary, random numbers, and exchanges counted."""

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plan_cases import batch_of, gradients_of, small
from ranks import ranks
from speeds import full_unless
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from zoo.models.registry import build, family
from zoo.parallel import Plan, parallelize
from zoo.parallel.checkpointing import recompute
from zoo.parallel.describe import rows
from zoo.parallel.gradients import clip_by_norm, local, total_norm
from zoo.parallel.pipeline import make_pipeline
from zoo.parallel.vocabulary import VocabularyLinear
from zoo.tasks.ema import EMA, averaged_copy

REFUSED = {
    "the 4 heads of blocks.0.mixer: choose tensor= among 1, 2, 4": ("gpt2", dict(tensor=3), {}),
    "does not divide the 25 hidden units": ("gpt2", dict(tensor=2), dict(mlp_dim=25)),
    "neither divides the kv_heads=4": ("gpt2", dict(tensor=6), dict(heads=12, kv_heads=4, width=24)),
    "is a Mamba, whose channels this plan does not divide": ("mamba", dict(tensor=2), {}),
    "is a RWKV4": ("rwkv", dict(tensor=2), {}),
    "is a Retention": ("retnet", dict(tensor=2), {}),
    "is a InducedSetAttention, whose heads this plan does not divide": ("set_transformer", dict(tensor=2), {}),
    "blocks.0.mixer is a VectorAttentionLayer": ("point_transformer", dict(tensor=2), {"stages": ()}),
    "has the stacks stages.0.blocks beside `blocks`": ("point_transformer", dict(pipeline=2), {"stages": (1,)}),
    "is a recurrent network": ("rnn_seq2seq", dict(tensor=2), {}),
    "has neither attention nor MLPs": ("dvae", dict(tensor=2), {}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_divided_is_refused_by_name(message: str) -> None:
    name, plan, fields = REFUSED[message]
    with pytest.raises(ValueError, match=message):
        Plan(**plan).check(small(name, **fields))


@pytest.mark.parametrize(("values", "message"), [
    (dict(tensor=0), "tensor=0: expected at least 1"),
    (dict(tensr=2), "did you mean 'tensor'"),
    (dict(shard="2"), "shard='2': expected int"),
    (dict(schedule="zero"), "expected one of 'gpipe'"),
    (dict(sequence=True), "set tensor=2 or more"),
    (dict(cpu_offload=True), "set shard=2 or more"),
    (dict(microbatches=4), "set pipeline=2 or more"),
    (dict(schedule="gpipe"), "set pipeline=2 or more"),
])  # fmt: skip
def test_wrong_plans_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan.from_dict(values)


def test_a_batch_that_is_not_divisible_and_a_mesh_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"batch_size=64 .* choose 63 or 66"):
        Plan(data=3).check(small("gpt2"), batch_size=64)
    with pytest.raises(ValueError, match=r"for 6 processes .*data=3 x shard=2.*there are 1"):
        Plan(data=3, shard=2).mesh("cpu")


def test_a_70b_model_is_described_on_meta() -> None:
    own = family("llama")
    sizes = dict(width=8192, depth=80, heads=64, kv_heads=8, mlp_dim=28672, vocab_size=32000)
    model = build(own, own.config(**own.variants["llama2_7b"]).replace(**sizes))
    plan = Plan(tensor=8, shard=8, data=2, sequence=True)
    found = {row.name: row for row in rows(plan, model)}
    assert found["blocks.*.mixer.k.weight"].total == 80 * 8 * 128 * 8192
    assert found["blocks.*.mixer.k.weight"].held == 80 * 128 * 8192 // 8
    total = sum(p.numel() for p in model.parameters())
    assert total / 64 <= sum(row.held for row in found.values()) <= 1.001 * total / 64
    text = plan.describe(model)
    assert "data 2 x shard 8 x tensor 8 + sequence: 128 processes" in text and f"{total:,}" in text


def held(rank: int, name: str, plan: Plan) -> int:
    warnings.simplefilter("ignore")
    mesh = plan.mesh("cpu")
    if plan.pipeline > 1:
        model: Any = make_pipeline(small(name), plan, mesh, lambda output, batch: output.mean())
    else:
        model = parallelize(small(name), plan, mesh)
    return sum(local(p).numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "plan"), [
    ("t5", Plan(tensor=2, shard=2)), ("llama", Plan(context=2, shard=2)), ("gpt2", Plan(pipeline=2)),
])  # fmt: skip
def test_a_process_holds_what_the_table_says(name: str, plan: Plan) -> None:
    assert max(ranks(plan.world, held, name, plan)) == sum(row.held for row in rows(plan, small(name)))


# --- the vocabulary -----------------------------------------------------------------------------------------------


def losses_of_parts(rank: int, smoothing: float, reduction: Any) -> tuple[Tensor, Tensor, Tensor, int]:
    model = parallelize(small("gpt2", vocab_size=53), Plan(tensor=2), Plan(tensor=2).mesh("cpu"))
    layer = model.head.proj
    assert isinstance(layer, VocabularyLinear)
    x, labels = hidden_and_labels()
    with CommDebugMode() as exchanges:
        losses = layer.cross_entropy(x, labels, reduction, label_smoothing=smoothing)
        losses.sum().backward()
    weight = layer._parameters["weight"].grad.full_tensor()  # type: ignore[union-attr]
    return losses.detach(), x.grad, weight, exchanges.get_total_counts()


def hidden_and_labels() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(7, 16, dtype=torch.float64, generator=draw).requires_grad_()
    return x, torch.tensor([0, 52, 26, 27, -100, 3, 51])


@pytest.mark.parametrize(("smoothing", "reduction"), [(0.0, "sum"), (0.1, "none"), (0.0, "mean")])
def test_the_loss_of_a_divided_vocabulary(smoothing: float, reduction: Any) -> None:
    """An odd number of tokens, those at the border of the parts, and one that is ignored; 3 exchanges."""
    weight = small("gpt2", vocab_size=53).head.proj.weight  # type: ignore[union-attr]
    x, labels = hidden_and_labels()
    theirs = F.cross_entropy(x @ weight.T, labels, reduction=reduction, label_smoothing=smoothing)
    theirs.sum().backward()
    for losses, grad, of_weight, count in ranks(2, losses_of_parts, smoothing, reduction):
        torch.testing.assert_close(losses, theirs.detach(), atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(grad, x.grad, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(of_weight, weight.grad, atol=1e-12, rtol=1e-12)
        assert count == 3  # the maximum, the sums, and the gradient of the hidden states


def test_an_id_out_of_range_is_found() -> None:
    assert ranks(2, wrong_id) == [True, True]


def wrong_id(rank: int) -> bool:
    model = parallelize(small("gpt2"), Plan(tensor=2), Plan(tensor=2).mesh("cpu"))
    try:
        model(input_ids=torch.tensor([[1, 50]]))
    except ValueError as error:
        return "token id 50 at row 0, position 1 is out of range" in str(error)
    return False


# --- training -----------------------------------------------------------------------------------------------------


def train(model: nn.Module, batch: dict[str, Tensor], steps: int = 20) -> list[float]:
    """Losses of steps of AdamW with clipping and a moving average; the last is that of the average."""
    average = averaged_copy(model)
    return [*train_placed(model, average, batch, steps)]


def train_placed(model: nn.Module, average: nn.Module, batch: dict[str, Tensor], steps: int) -> list[float]:
    optimizer, ema, losses = torch.optim.AdamW(model.parameters(), 1e-2), EMA(average, model, 0.9), []
    for step in range(steps):
        loss = model(**batch).square().mean()
        loss.backward()
        losses.append(loss.item())
        clip_by_norm(model.parameters(), 0.1, total_norm([p.grad for p in model.parameters() if p.grad is not None]))
        optimizer.step()
        optimizer.zero_grad()
        ema.update(step)
    with torch.no_grad():
        return [*losses, average(**batch).square().mean().item()]


def train_in_parts(rank: int, plan: Plan) -> list[float]:
    warnings.simplefilter("ignore")
    mesh, model = plan.mesh("cpu"), small("gpt2")
    batch, average = batch_of(model), averaged_copy(model)
    for each in (model, average):
        parallelize(each, plan, mesh)
    return train_placed(model, average, batch, 20)


TWENTY = [Plan(tensor=2, sequence=True), Plan(shard=2, checkpointing="selective")]


@pytest.mark.parametrize("plan", full_unless(TWENTY[:1], TWENTY), ids=str)
def test_twenty_steps_with_clipping_and_a_moving_average(plan: Plan) -> None:
    """All processes receive the same rows, whose mean loss is that of one process."""
    model = small("gpt2")
    theirs = torch.tensor(train(model, batch_of(model)), dtype=torch.float64)
    for losses in ranks(plan.world, train_in_parts, plan):
        torch.testing.assert_close(torch.tensor(losses, dtype=torch.float64), theirs, atol=0, rtol=1e-10)


def halves(rank: int, plan: Plan) -> dict[str, Tensor]:
    model = small("gpt2").float()
    batch = {name: x[2 * rank : 2 * rank + 2] for name, x in batch_of(model).items()}
    parallelize(model, plan, plan.mesh("cpu"))
    model(**batch).square().mean().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: g.full_tensor() if isinstance(g, DTensor) else g for name, g in grads.items()}


@pytest.mark.parametrize("plan", [Plan(data=2), Plan(shard=2)], ids=str)
def test_two_copies_are_two_accumulation_steps_bit_for_bit(plan: Plan) -> None:
    model = small("gpt2").float()
    for half in range(2):
        batch = {name: x[2 * half : 2 * half + 2] for name, x in batch_of(model).items()}
        (model(**batch).square().mean() / 2).backward()
    for found in ranks(2, halves, plan):
        for name, value in model.named_parameters():
            assert torch.equal(found[name], value.grad), name  # type: ignore[arg-type]


def dropped(rank: int) -> tuple[Tensor, Tensor]:
    """Zeros in the hidden states of a block with dropout, and what follows of the common random numbers."""
    plan = Plan(tensor=2, sequence=True)
    model = small("gpt2", dropout=0.5, attention_dropout=0.5).train()
    parallelize(model, plan, plan.mesh("cpu"))
    torch.manual_seed(0)
    y = model.blocks[0].branch(torch.ones(1, 64, 16, dtype=torch.float64), None, None)
    model.blocks.region.active = True
    z = model.blocks[0].branch(torch.ones(1, 64, 16, dtype=torch.float64), None, None)
    model(input_ids=torch.arange(8)[None])
    return torch.stack([y, z]), torch.rand(3)


def test_processes_drop_out_different_tokens_and_stay_in_step() -> None:
    (first, after), (second, other) = ranks(2, dropped)
    assert torch.equal(first[0], second[0])  # outside of a stack all compute the same
    assert 0.3 < (first[1] != second[1]).double().mean() < 0.7
    assert torch.equal(after, other)


def test_what_checkpointing_keeps_changes_no_gradient() -> None:
    model = small("t5")
    batch = batch_of(model)
    theirs = {name: g.clone() for name, g in gradients_of(model, batch).items()}
    model.zero_grad()
    recompute(model, "selective")
    for name, gradient in gradients_of(model, batch).items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-12, rtol=1e-12)


# --- many processes -----------------------------------------------------------------------------------------------


def exchanges(rank: int, plan: Plan) -> dict[str, int]:
    """The exchanges of a step of process 0 of many, with a backend that sends nothing."""
    dist.destroy_process_group()
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=plan.world)
    model = parallelize(small("gpt2", vocab_size=64), plan, plan.mesh("cpu"))
    with CommDebugMode() as counted:
        model(input_ids=torch.arange(8).repeat(2, 1)).square().mean().backward()
    return {str(kind).rpartition(".")[2]: count for kind, count in counted.get_comm_counts().items()}


BLOCKS = 2
UNITS = BLOCKS + 1  # of FSDP2: each block, and all other parameters
SHARDS = {"_allgather_base_": UNITS + BLOCKS, "_reduce_scatter_base_": UNITS}  # the blocks backward, too; gradients
# The word embeddings, attentions and MLPs; the gradients of the inputs of these and of the output layer; the scores.
PARTS = {"all_reduce": 1 + 2 * BLOCKS + 2 * BLOCKS + 1, "all_gather_into_tensor": 1}
# Attentions and MLPs gather tokens and scatter their sums, forward and backward; so do the ends of the stack, one of
# them in each direction. The gradients of six parameters of each block that are applied to parts of the tokens.
TOKENS = {
    "all_gather_into_tensor": 1 + 4 * BLOCKS + 2,
    "reduce_scatter_tensor": 4 * BLOCKS,
    "all_reduce": 1 + 1 + 6 * BLOCKS,
}


@pytest.mark.parametrize(("plan", "expected"), [
    (Plan(shard=64), SHARDS),
    (Plan(tensor=4, data=16), PARTS | {"allreduce_": UNITS}),
    (Plan(shard=16, tensor=4, sequence=True), SHARDS | TOKENS),
])  # fmt: skip
def test_the_exchanges_of_64_processes_are_counted(plan: Plan, expected: dict[str, int]) -> None:
    assert ranks(1, exchanges, plan) == [expected]
