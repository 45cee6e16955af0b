"""What the processes of context parallelism and of pipelines exchange: how often, and how many bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import nn

from zoo.nn.gated_core import GatedCore
from zoo.parallel.context import choose_method, scored_by_token
from zoo.parallel.token_slices import TokenSlices

Operation = Literal["all_to_all", "all_gather", "reduce_scatter", "send"]


@dataclass(frozen=True)
class Exchange:
    """Operations of one kind in a pass: their number, and the bytes that one process puts into all of them."""

    operation: Operation
    count: int
    bytes: int


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
