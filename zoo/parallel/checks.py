"""Checks that a plan divides a model and its batches."""

from torch import nn

from zoo.parallel.config import PlanSettings
from zoo.parallel.tensor import Layout, Ranks


def check(plan: PlanSettings, model: nn.Module, batch_size: int | None = None) -> None:
    """See `Plan.check`."""
    if batch_size is not None and batch_size % plan.batch_parts:
        lower = batch_size - batch_size % plan.batch_parts
        choices = " or ".join(str(n) for n in (lower, lower + plan.batch_parts) if n)
        raise ValueError(
            f"batch_size={batch_size} cannot be divided into {plan.batch_parts} parts (data={plan.data} x "
            f"shard={plan.shard}): choose {choices}"
        )
    if plan.tensor > 1:
        Layout(model, Ranks(plan.tensor), sequence=plan.sequence)
    for name in ("context", "pipeline"):
        if (size := getattr(plan, name)) > 1:
            raise ValueError(f"plan: {name}={size} is not supported for {type(model).__name__}: set {name}=1")
