"""Predicted time of a step of two processes of this machine against measured steps.

    python benchmarks/plan_time.py [steps=6] [plans=8] [rounds=1] [cpu_time=0]

The machine is measured before, as `zoo plan --measure` does. Each time is the best of `steps` in all `rounds`, of
which each measures and predicts all plans.
`cpu_time=1`: the time in which a process computes, on a machine that other work shares: without what it waits for.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed.pipelining
from _measure import options
from torch import distributed as dist

import zoo
from zoo.parallel.pipeline import make_pipeline
from zoo.parallel.place import parallelize
from zoo.parallel.plan import Plan, batch_mesh
from zoo.tasks.optimizer import adamw
from zoo.training.planner.links import measured_machine
from zoo.training.planner.search import plan_run
from zoo.training.planner.trace import backward

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from ranks import ranks

ROWS, TOKENS = 8, 64
MODEL = {"width": 256, "depth": 6, "heads": 4, "vocab_size": 2048, "max_length": 64, "tie_word_embeddings": False}
PLANS = {
    "data=2": Plan(data=2),
    "shard=2": Plan(shard=2),
    "tensor=2": Plan(tensor=2),
    "tensor=2 sequence": Plan(tensor=2, sequence=True),
    "context=2": Plan(context=2),
    "pipeline=2, 4 microbatches": Plan(pipeline=2, microbatches=4),
    "pipeline=2, 2 microbatches": Plan(pipeline=2, microbatches=2),
    "shard=2, recomputed": Plan(shard=2, checkpointing="full"),
}


def loss_of(logits: Any, batch: Any) -> Any:
    """Mean cross-entropy of the next tokens."""
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())


def seconds(rank: int, plan: Plan, clock: Any, steps: int) -> float:
    """The best time of a step."""
    mesh = plan.mesh("cpu")
    ids = torch.randint(0, 2048, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    own, rows = batch_mesh(mesh).get_local_rank(), ROWS // plan.batch_parts
    ids = ids[own * rows : (own + 1) * rows]
    model: Any = zoo.create_model("gpt_nano", seed=0, **MODEL)
    if plan.pipeline > 1:
        model = make_pipeline(model, plan, mesh, loss_of)
        run = lambda: model.step({"input_ids": ids, "labels": ids})  # noqa: E731
    else:
        model = parallelize(model, plan, mesh)
        run = lambda: backward(model, {"input_ids": ids}, whole_logits=False)  # noqa: E731
    optimizer = adamw([{"params": list(model.parameters())}])
    times = []
    for _ in range(steps):
        dist.barrier()
        started = clock()
        run()
        optimizer.step()
        optimizer.zero_grad()
        dist.barrier()
        times.append(clock() - started)
    return min(times)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    o = options({"steps": 1, "plans": 1, "rounds": 1}, steps=6, plans=len(PLANS), rounds=1, cpu_time=0)
    clock = time.process_time if o.cpu_time else time.perf_counter
    model = zoo.create_model("gpt_nano", **MODEL)
    plans = dict(list(PLANS.items())[: o.plans])
    measured, predicted = ({name: float("inf") for name in plans} for _ in range(2))
    for _ in range(o.rounds):
        device = measured_machine(model, ROWS, TOKENS, "fp32", clock, 2)
        listed = plan_run(model, 2, ROWS, gpu=device, length=TOKENS, precision="fp32", only=list(plans.values()),
                          clock=clock).plans  # fmt: skip
        for name, plan in plans.items():
            measured[name] = min(measured[name], max(ranks(2, seconds, plan, clock, o.steps, timeout=600)))
            time_of = next(each.time for each in listed if each.plan == plan)
            seconds_of = time_of.total - (time_of.waiting if o.cpu_time else 0)
            predicted[name] = min(predicted[name], seconds_of)
    print("| plan | measured, ms | predicted, ms | ratio |\n|---|---|---|---|")
    for name in plans:
        own, guess = measured[name], predicted[name]
        print(f"| {name} | {own * 1e3:.0f} | {guess * 1e3:.0f} | {guess / own:.2f} |")
    print("\nfrom fast to slow, measured:", ", ".join(sorted(plans, key=lambda name: measured[name])))
    print("from fast to slow, predicted:", ", ".join(sorted(plans, key=lambda name: predicted[name])))


if __name__ == "__main__":
    main()
