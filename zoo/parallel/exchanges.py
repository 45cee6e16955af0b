"""What the processes of a plan exchange: how often, and how many bytes."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch import distributed as dist

from zoo.nn.gated_core import GatedCore
from zoo.parallel.config import PlanSettings
from zoo.parallel.context import choose_method, scored_by_token
from zoo.parallel.fsdp import blocks_of
from zoo.parallel.tensor import Layout, named_values
from zoo.parallel.token_slices import TokenSlices

Operation = Literal["all_to_all", "all_gather", "reduce_scatter", "all_reduce", "broadcast", "send"]


@dataclass(frozen=True)
class Exchange:
    """Operations of one kind in a pass: their number, and the bytes that one process puts into all of them.

    over: the dimension of the plan whose processes exchange, if it is known.
    """

    operation: Operation
    count: int
    bytes: int
    over: str = ""


class Passes(NamedTuple):
    """What a process exchanges in a forward and in a backward pass."""

    forward: tuple[Exchange, ...]
    backward: tuple[Exchange, ...]


def context_exchanges(
    model: nn.Module,
    slices: TokenSlices,
    rows: int,
    tokens: int,
    *,
    method: Literal["ulysses", "gather"] | None = None,
    gather_output: bool | None = None,
    element_size: int = 4,
) -> Passes:
    """What a process exchanges by `context_parallel`, apart from the sum of one number by the loss.

    Args:
        model: A model with one stack `blocks`, which may be on the meta device.
        slices: The process: `TokenSlices(None, rank, ranks)` for one of a run that is planned.
        rows, tokens: B and N of a batch, as the stack reads it.
        method, gather_output: As of `context_parallel`.
        element_size: Bytes of a number of the hidden states.

    Recomputed activations exchange in the backward pass what the forward pass of their blocks did, once more.
    """
    blocks: Any = model.blocks
    chosen = choose_method(blocks, "blocks", slices.ranks, method)
    own, longest = slices.sizes(tokens)[slices.rank], slices.sizes(tokens)[0]
    inputs = outputs = keys = 0  # numbers for one token of one row, summed over the blocks
    for block in blocks:
        core = block.mixer.core
        heads, groups, dim = core.spec.heads, core.spec.kv_heads, core.spec.head_dim
        gates = groups * core.gate_width if isinstance(core, GatedCore) else 0
        inputs, outputs = inputs + (heads + 2 * groups) * dim + gates, outputs + heads * dim
        keys += 2 * groups * dim
    depth, size, ranks = len(blocks), rows * element_size, slices.ranks
    forward: list[Exchange] = []
    backward: list[Exchange] = []
    if chosen == "ulysses":  # of the inputs all heads of some tokens are sent, of the outputs some heads of all tokens
        forward.append(Exchange("all_to_all", 2 * depth, size * (own * inputs + tokens * outputs // ranks)))
        backward.append(Exchange("all_to_all", 2 * depth, size * (tokens * inputs // ranks + own * outputs)))
        gathered, count = 0, 0
    else:
        gathered, count = keys, depth
    if gather_output if gather_output is not None else scored_by_token(model) is None:
        config: Any = model.config
        gathered, count = gathered + config.width, count + 1
    if count:
        forward.append(Exchange("all_gather", count, size * longest * gathered))
        backward.append(Exchange("reduce_scatter", count, size * longest * ranks * gathered))
    if blocks.checkpointing:
        backward.extend(each for each in forward if each.operation == "all_to_all")
        if chosen == "gather":
            backward.append(Exchange("all_gather", depth, size * longest * keys))
    return Passes(tuple(forward), tuple(backward))


def pipeline_exchanges(
    stages: Sequence[int], count: int, microbatches: int, hidden: int, *, element_size: int = 4
) -> Passes:
    """What a process of a pipeline sends in a step, apart from the gradients of tied embeddings and the loss.

    Args:
        stages: The numbers of its stages.
        count: The number of all stages.
        microbatches: Parts of a batch.
        hidden: Numbers of the hidden states of a microbatch, b * N * D.
        element_size: Bytes of each.
    """
    size = microbatches * hidden * element_size
    after, before = sum(stage < count - 1 for stage in stages), sum(stage > 0 for stage in stages)
    return Passes(
        (Exchange("send", after * microbatches, after * size),),
        (Exchange("send", before * microbatches, before * size),),
    )


# --- gradients, and what FSDP2 gathers --------------------------------------------------------------------------------


class Held(NamedTuple):
    """A parameter as the processes of `tensor` divide it: its shape in this process, and whether it is trained."""

    shape: tuple[int, ...]
    trained: bool

    def part(self, parts: int) -> int:
        """Numbers of one of `parts` processes that FSDP2 divides it over, with what it adds for equal parts."""
        return -(-self.shape[0] // parts) * math.prod(self.shape[1:])


Units = Mapping[str, Sequence[Held]]


def units_of(model: nn.Module, layout: Layout | None = None) -> dict[str, list[Held]]:
    """The parameters that FSDP2 and DDP exchange together: those of each block by its name, and all others under "".

    Args:
        model: It may be on the meta device.
        layout: How the processes of `tensor` divide it.
    """
    names = {module: name for name, module in model.named_modules()}
    blocks = sorted((names[block] for block in blocks_of(model)), key=len, reverse=True)
    units: dict[str, list[Held]] = {"": []} | {name: [] for name in reversed(blocks)}
    for name, value, module in named_values(model):
        unit = next((block for block in blocks if name.startswith(f"{block}.")), "")
        units[unit].append(held_of(name, value, module, layout))
    return {name: held for name, held in units.items() if held}


def held_of(name: str, value: nn.Parameter, module: nn.Module, layout: Layout | None) -> Held:
    """What a process holds of a parameter of this name, which is one of a module."""
    shape = list(value.shape) or [1]
    if layout is not None:
        division = layout.division(module, name.rpartition(".")[2])
        if division.stored and division.dim is not None:
            shape[division.dim] = division.size
    return Held(tuple(shape), value.requires_grad)


class Sizes(NamedTuple):
    """Bytes of a number: of gathered parameters, and of gradients that are summed."""

    parameter: int
    gradient: int


FLOAT32 = Sizes(4, 4)


def parameter_exchanges(units: Units, plan: PlanSettings, sizes: Sizes = FLOAT32) -> Passes:
    """What FSDP2 (`shard`) or DDP (`data`) exchange in a forward and a backward pass of one microbatch.

    Args:
        units: See `units_of`.
        plan: The processes of `context` average gradients with those of `shard`, or of `data`.
        sizes: With `plan.mixed_precision` those of bfloat16 and float32, (2, 4).
    """
    forward: list[Exchange] = []
    backward: list[Exchange] = []
    trained = [[p for p in held if p.trained] for held in units.values()]
    trained = [held for held in trained if held]
    if plan.shard > 1:
        parts = plan.parts_of_parameters
        gathered = {name: sizes.parameter * sum(p.part(parts) for p in held) for name, held in units.items()}
        forward.append(Exchange("all_gather", len(units), sum(gathered.values()), "shard"))
        again = [size for name, size in gathered.items() if name]  # others stay whole
        backward.append(Exchange("all_gather", len(again), sum(again), "shard"))
        size = sizes.gradient * sum(p.part(parts) for held in trained for p in held)
        backward.append(Exchange("reduce_scatter", len(trained), parts * size, "shard"))
        if plan.data > 1:
            backward.append(Exchange("all_reduce", len(trained), size, "data"))
    elif plan.data * plan.context > 1:
        size = sizes.gradient * sum(math.prod(p.shape) for held in trained for p in held)
        backward.append(Exchange("all_reduce", len(trained), size, "data"))
    return Passes(tuple(forward), tuple(backward))


# --- counting calls ---------------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """An operation of torch.distributed, and its arguments -> (tensors that are put into it, name of its group)."""

    operation: Operation
    read: Callable[[Sequence[Any]], tuple[Sequence[Tensor], str]]


def _functional(args: Sequence[Any]) -> tuple[Sequence[Tensor], str]:
    return [args[0]], args[-1]


def _lists(args: Sequence[Any]) -> tuple[Sequence[Tensor], str]:
    at = 1 if isinstance(args[1], list | tuple) else 0
    return args[at], dist.ProcessGroup.unbox(args[at + 1]).group_name


def _into(args: Sequence[Any]) -> tuple[Sequence[Tensor], str]:
    return [args[1]], dist.ProcessGroup.unbox(args[2]).group_name


OF_CALL: dict[str, Call] = {
    "all_reduce": Call("all_reduce", _functional),
    "all_gather_into_tensor": Call("all_gather", _functional),
    "reduce_scatter_tensor": Call("reduce_scatter", _functional),
    "allreduce_": Call("all_reduce", _lists),
    "allgather_": Call("all_gather", _lists),
    "broadcast_": Call("broadcast", _lists),
    "_allgather_base_": Call("all_gather", _into),
    "_reduce_scatter_base_": Call("reduce_scatter", _into),
    "alltoall_base_": Call("all_to_all", _into),
}
"""By the name of the operation in `torch.ops.c10d` and `torch.ops._c10d_functional`."""


def add_up(exchanges: Iterable[Exchange], times: int = 1) -> list[Exchange]:
    """One exchange for each operation and dimension, `times` over."""
    found: dict[tuple[Operation, str], tuple[int, int]] = {}
    for each in exchanges:
        count, size = found.get((each.operation, each.over), (0, 0))
        found[each.operation, each.over] = count + times * each.count, size + times * each.bytes
    return [Exchange(operation, *numbers, over) for (operation, over), numbers in found.items()]
