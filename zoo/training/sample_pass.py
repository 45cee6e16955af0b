"""Passes over a small batch before the first step, on a copy of the task: their time, FLOPs and repeatability."""

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from zoo.models.base import Model
from zoo.tasks.base import Task, seed_all

PASSES = 5  # that are timed: the first ones are slower
PASS_SECONDS = 1.0


class SamplePass:
    """Forward and backward over a sample of the training items, as in the first step; the run is not affected.

    Args:
        task: The task, which is copied.
        sample: A raw batch, as `KeyedDataModule.sample` gives it.
        accelerator: Type of the device.
        precision: That of the run.
    """

    def __init__(self, task: Task, sample: Mapping[str, Any], accelerator: str, precision: str):
        self.device, self.precision = torch.device(accelerator), precision
        self.task = copy.deepcopy(task).to(self.device).train()
        self.batch = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in sample.items()}
        self.items = len(next(value for value in self.batch.values() if isinstance(value, Tensor)))

    def seconds_per_item(self, clock: Callable[[], float] = time.perf_counter) -> float:
        """Time of a pass per item, the best of five; of slow ones, of those that begin within a second."""
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < 2 or (len(times) < PASSES and time.perf_counter() - began < PASS_SECONDS):
            start = clock()
            self._run()
            times.append(clock() - start)
        return min(times) / self.items

    def flops_per_item(self) -> int:
        """FLOPs of matrix products, convolutions and attention per item; recomputed activations do not count."""
        recomputes = {m: m.checkpointing for m in self.task.modules() if getattr(m, "checkpointing", False)}
        if isinstance(self.task.model, Model):
            self.task.model.set_checkpointing(False)
        try:
            with FlopCounterMode(display=False) as counter:
                self._run()
        finally:
            for module, checkpointing in recomputes.items():
                module.checkpointing = checkpointing
        return counter.get_total_flops() // self.items

    def repeats(self, passes: int = 3) -> bool:
        """Whether passes with equal weights and random numbers give equal gradients, bit for bit."""
        first: list[Tensor | None] | None = None
        for _ in range(passes):
            self.task.zero_grad()
            self._run()
            gradients = [None if p.grad is None else p.grad.clone() for p in self.task.parameters()]
            if first is None:
                first = gradients
            elif not all(a is b is None or (a is not None and b is not None and torch.equal(a, b))
                         for a, b in zip(first, gradients, strict=True)):  # fmt: skip
                return False
        return True

    def _run(self) -> None:
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            seed_all(0, 0, 0, self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision != "fp32"):
                self.task.backward(self.task.compute_loss(self.batch, 0, 0))
            if self.device.type != "cpu":
                torch.accelerator.synchronize()
