"""Runs of a task under a plan, without a recipe."""

import os
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from zoo.parallel import Plan
from zoo.tasks.base import Task
from zoo.training.plan_strategy import PlanStrategy


def fit(task: Task, plan: Plan, rank: int, batches: list[dict[str, Any]], **options: Any) -> list[dict[str, float]]:
    """Train a task in the process `rank` of a plan, and validate it, on the same batches; what it logs."""
    os.environ["LOCAL_RANK"] = str(rank)
    rows: list[dict[str, float]] = []
    task.record = lambda row, step: rows.append(row)  # type: ignore[method-assign]
    trainer = L.Trainer(
        accelerator="cpu", devices=plan.world, strategy=PlanStrategy(plan) if plan.world > 1 else "auto",
        use_distributed_sampler=False, num_sanity_val_steps=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(task, *(DataLoader(batches, batch_size=None) for _ in range(2)))  # type: ignore[arg-type]
    return rows
