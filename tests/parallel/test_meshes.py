"""Context parallelism and pipelines together with the other dimensions of a plan, against one process."""

from typing import Any

import pytest
import torch
import torch.distributed.pipelining  # here and not in each child
import torch.nn.functional as F
from parallel_cases import Gradients, difference, double
from ranks import ranks
from speeds import full_unless
from torch import Tensor
from torch.distributed.tensor import DTensor

from tests.models import test_contract as single_towers
from zoo.parallel.context import slices_of
from zoo.parallel.gradients import clip_by_norm, total_norm
from zoo.parallel.pipeline import make_pipeline
from zoo.parallel.place import parallelize
from zoo.parallel.plan import Plan, batch_mesh
from zoo.tasks.ema import EMA

IDS = torch.randint(5, 48, (8, 11), generator=torch.Generator().manual_seed(0))
BATCH = {"input_ids": IDS, "labels": IDS.roll(-1, 1)}


def model_of(name: str) -> Any:
    shapes = {
        "llama": {"kv_heads": 4},
        "gpt2": {},
        "gated": {"attention": "gated_delta", "kv_heads": 4},
        "shared": {"kv_heads": 2},
    }
    family = name if name in single_towers.ROWS else "llama"
    return double(single_towers.small(family, **{"vocab_size": 48, "depth": 4} | shapes[name]))


def loss(logits: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())


def alone(name: str) -> tuple[float, Gradients]:
    model = model_of(name)
    mean = loss(model(input_ids=IDS), BATCH)
    mean.backward()
    return float(mean.detach()), {key: p.grad for key, p in model.named_parameters()}


def whole(parameters: Any) -> Gradients:
    found = {name: p.grad for name, p in parameters if p.grad is not None}
    return {name: g.full_tensor() if isinstance(g, DTensor) else g for name, g in found.items()}


def placed(rank: int, name: str, plan: Plan) -> Gradients:
    mesh = plan.mesh("cpu")
    own = batch_mesh(mesh)
    rows = 8 // plan.batch_parts
    part = slice(own.get_local_rank() * rows, (own.get_local_rank() + 1) * rows)
    batch = {key: x[part] for key, x in BATCH.items()}
    if plan.pipeline > 1:
        pipeline = make_pipeline(model_of(name), plan, mesh, loss)
        pipeline.step(batch)
        return whole(pipeline.named_parameters())
    model = parallelize(model_of(name), plan, mesh)
    logits, slices = model(input_ids=batch["input_ids"]), slices_of(model)
    assert slices is not None
    slices.cross_entropy(logits, batch["labels"]).backward()
    return whole(model.named_parameters())


CONTEXT = [
    ("llama", Plan(context=2, data=2)),
    ("gpt2", Plan(context=2, shard=2)),
    ("llama", Plan(context=2, shard=2, data=2)),
    ("llama", Plan(context=2, tensor=2, checkpointing="selective")),
    ("gated", Plan(context=2, tensor=2)),
    ("shared", Plan(context=2, tensor=2)),
]
PIPELINES = [
    ("gpt2", Plan(pipeline=2, shard=2, checkpointing="selective")),
    ("llama", Plan(pipeline=2, tensor=2, schedule="interleaved")),
    ("gpt2", Plan(pipeline=2, tensor=2, data=2, microbatches=2)),
]


@pytest.mark.parametrize(
    ("name", "plan"),
    full_unless([*CONTEXT[2:5], PIPELINES[-1]], CONTEXT + PIPELINES),
    ids=lambda value: str(value).replace(" ", ""),
)
def test_gradients(name: str, plan: Plan) -> None:
    expected = alone(name)[1]
    found: Gradients = {}
    for own in ranks(plan.world, placed, name, plan):
        for key, gradient in own.items():
            key = "tokens.word.weight" if key == "head.proj.weight" and key not in expected else key
            assert key not in found or torch.equal(found[key], gradient), key
            found[key] = gradient
    assert found.keys() == expected.keys()
    assert difference(found, expected) < 1e-12


# --- training: copies of shards, whose processes divide the tokens ----------------------------------------------------


def steps(model: Any, average: Any, rows: slice = slice(None)) -> list[float]:
    """Losses of 20 steps of AdamW with clipping and a moving average, of these rows of a batch; last, the average's."""
    optimizer, ema, slices = torch.optim.AdamW(model.parameters(), 1e-2), EMA(average, model, 0.9), slices_of(model)

    def loss_of(trained: Any, step: int) -> Tensor:
        ids = (IDS + step) % 43 + 5
        logits, labels = trained(input_ids=ids[rows]), ids.roll(-1, 1)[rows]
        return loss(logits, {"labels": labels}) if slices is None else slices.cross_entropy(logits, labels)

    losses = []
    for step in range(20):
        losses.append(loss_of(model, step))
        losses[-1].backward()
        clip_by_norm(model.parameters(), 0.5, total_norm([p.grad for p in model.parameters()]))
        optimizer.step()
        optimizer.zero_grad()
        ema.update(step)
    return [each.item() for each in (*losses, loss_of(average, 0))]


def placed_steps(rank: int, plan: Plan) -> list[float]:
    mesh, models = plan.mesh("cpu"), [model_of("gpt2") for _ in range(2)]
    for model in models:
        parallelize(model, plan, mesh)
    part, rows = batch_mesh(mesh).get_local_rank(), 8 // plan.batch_parts
    return steps(*models, slice(part * rows, (part + 1) * rows))


@pytest.mark.full
def test_twenty_steps() -> None:
    expected = torch.tensor(steps(model_of("gpt2"), model_of("gpt2")), dtype=torch.float64)
    assert expected[19] < expected[0] - 0.2
    found = torch.tensor(ranks(8, placed_steps, Plan(context=2, shard=2, data=2)), dtype=torch.float64)
    torch.testing.assert_close(found.mean(0), expected, atol=0, rtol=1e-10)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(context=2, tensor=2, sequence=True), "sequence=true divides the tokens that context=2 divides already"),
        (Plan(context=3), "heads=4 cannot be divided over 3 processes"),
        (Plan(context=2, pipeline=2), "context=2 does not go with pipeline=2"),
        (Plan(pipeline=5), "4 blocks cannot be cut into 5 stages"),
        (Plan(pipeline=2, microbatches=3), "rows of a part of batch_size=8 cannot be divided into microbatches=3"),
    ],
)
def test_plans_that_do_not_fit(plan: Plan, message: str) -> None:
    attention = "performer" if plan.context == 3 else "softmax"
    with pytest.raises(ValueError, match=message):
        plan.check(single_towers.small("llama", depth=4, attention=attention), batch_size=8)
