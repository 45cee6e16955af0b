"""Models and plans whose memory is predicted, and measured in one process of an imaginary group."""

from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from live_memory import LiveMemory

import zoo
from zoo.inference.cost import empty_batch, meta_copy
from zoo.parallel.place import parallelize
from zoo.parallel.plan import Plan
from zoo.tasks.optimizer import adamw
from zoo.training.planner.batch import read_batch
from zoo.training.planner.estimate import Estimator
from zoo.training.planner.hardware import Hardware
from zoo.training.planner.trace import backward, imaginary_processes

GPT = {"width": 64, "depth": 3, "heads": 8, "vocab_size": 256, "max_length": 64}
MODELS: dict[str, dict[str, Any]] = {
    "gpt_nano": GPT,
    "llama_nano": GPT | {"kv_heads": 8, "max_length": 48},
    "bert_tiny": GPT | {"head": "masked_lm", "max_length": 32},
    "vit_cifar_tiny": {"width": 64, "depth": 3, "heads": 8},
}
CPU = Hardware(name="cpu", tflops=0.1, attention_tflops=0.1, bandwidth_gb_s=10.0, memory_gb=16.0, overlaps=False,
               on_gpu=False)  # fmt: skip


def values(model: Any, rows: int) -> dict[str, Any]:
    """A batch with zeros."""
    return {name: torch.zeros(x.shape, dtype=x.dtype) for name, x in empty_batch(model, rows).items()}


def predicted(name: str, plan: Plan, rows: int, autocast: bool = False, microbatches: int = 1,
              hardware: Hardware = CPU) -> Any:  # fmt: skip
    """The estimate of a plan with so many rows for each process."""
    model = meta_copy(name, MODELS[name])
    bf16 = plan.mixed_precision is not None or autocast
    batch = read_batch(rows * microbatches * plan.batch_parts, model)
    return Estimator(model, batch, hardware, bf16=bf16).estimate(plan, rows, exact=True)


PLANS = (
    Plan(), Plan(data=4), Plan(shard=4), Plan(shard=4, mixed_precision="bf16"), Plan(data=2, shard=2),
    Plan(tensor=4), Plan(tensor=2, sequence=True), Plan(tensor=2, shard=4, sequence=True), Plan(context=2, shard=2),
    Plan(context=2, data=2),
)  # fmt: skip


def outside(backward: Any, *args: Any, **options: Any) -> None:
    """A backward pass after the context of autocast, as in a run: what it recomputes leaves no copies of weights."""
    enabled = torch.is_autocast_enabled("cpu")
    torch.set_autocast_enabled("cpu", False)
    torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()
    backward(*args, **options)
    torch.autocast_increment_nesting()
    torch.set_autocast_enabled("cpu", enabled)


def peak(name: str, plan: Plan, rows: int, autocast: bool = False, microbatches: int = 1) -> int:
    """The memory of the second step of a process."""
    return measured(name, plan, rows, LiveMemory, autocast, microbatches).peak


def measured(name: str, plan: Plan, rows: int, kind: type[LiveMemory] = LiveMemory, autocast: bool = False,
             microbatches: int = 1) -> Any:  # fmt: skip
    """What `kind` has followed in the second step of a process."""
    with (
        imaginary_processes(plan.world),
        patch.object(torch.autograd, "backward", partial(outside, torch.autograd.backward)),
    ):
        model: Any = zoo.create_model(name, seed=0, **MODELS[name])
        batch = values(model, rows)
        model = parallelize(model.train(), plan, plan.mesh("cpu"))
        optimizer = adamw([{"params": list(model.parameters())}])
        for _ in range(2):
            memory = kind()
            hold = getattr(memory, "hold", memory.follow)  # in the memory of the host, if that is apart
            memory.follow(*model.buffers(), *batch.values())
            hold(*model.parameters(), *[x for state in optimizer.state.values() for x in state.values()])
            with memory:
                for _ in range(microbatches):
                    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                        backward(model, batch, whole_logits=False)
                memory.stepping = True
                optimizer.step()
                optimizer.zero_grad()
    return memory
