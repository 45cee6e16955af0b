"""Checks that a plan divides a model and its batches."""

from torch import nn

from zoo.parallel.config import PlanSettings
from zoo.parallel.context import choose_method, stacks_of
from zoo.parallel.cuts import check_model, check_schedule, cut_blocks
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
    if plan.context > 1:
        check_context(plan, model)
    if plan.pipeline > 1:
        check_pipeline(plan, model, batch_size)


def check_context(plan: PlanSettings, model: nn.Module) -> None:
    """Raise ValueError for sequences whose tokens cannot be divided."""
    if plan.sequence:
        raise ValueError(f"plan: sequence=true divides the tokens that context={plan.context} divides already: set "
                         "sequence=false")  # fmt: skip
    stacks = stacks_of(model)
    for name, module in model.named_modules():
        if getattr(module, "gated_cross", None) is not None:
            raise ValueError(f"{name or type(model).__name__} has gated cross-attention between its blocks, which "
                             f"context={plan.context} does not divide: use data=, shard= or tensor=")  # fmt: skip
    for name, stack in stacks.items():
        choose_method(stack, name, plan.context, tensor=plan.tensor)


def check_pipeline(plan: PlanSettings, model: nn.Module, batch_size: int | None) -> None:
    """Raise ValueError for a model that cannot be cut, and for numbers that do not fit."""
    for name, off in (("sequence", "false"), ("context", "1")):
        if getattr(plan, name) > 1 or getattr(plan, name) is True:
            raise ValueError(f"plan: {name}={getattr(plan, name)} does not go with pipeline={plan.pipeline}, whose "
                             f"stages exchange all tokens: set {name}={off}, or pipeline=1")  # fmt: skip
    check_model(model)
    each = plan.stages_per_process
    microbatches = plan.parts_of_pipeline
    check_schedule(plan.schedule, microbatches, plan.pipeline, each)
    cut_blocks(model, each * plan.pipeline)
    if batch_size is not None and batch_size // plan.batch_parts % microbatches:
        raise ValueError(f"plan: the {batch_size // plan.batch_parts} rows of a part of batch_size={batch_size} cannot "
                         f"be divided into microbatches={microbatches}: choose a multiple of {microbatches}, or other "
                         "microbatches")  # fmt: skip
