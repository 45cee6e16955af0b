"""Compile the blocks of a model, in place: one after the other, or a stack of them as one graph."""

from typing import Any, cast

from torch import Tensor, nn
from torch._dynamo import config

from zoo.nn.block import NO_CONTEXT, Block
from zoo.nn.context import Context
from zoo.nn.kernels import TRITON
from zoo.nn.kv_cache import LayerState
from zoo.nn.stack import Stack


def compile_model(model: nn.Module, how: bool | str, accelerator: str) -> None:
    """Compile a model in place as `trainer.compile` says: "blocks", "stack", True (all of it) or False.

    Raises: ValueError without Triton on a GPU, and for a model that has no such part.
    """
    if how and accelerator == "cuda" and not TRITON:
        raise ValueError(
            f"compile={str(how).lower()} needs triton on a GPU, which is not installed: pip install triton, or use "
            "compile=false"
        )
    if how == "blocks":
        compile_blocks(model)
    elif how == "stack":
        compile_stacks(model)
    elif how:
        model.compile()


def compile_stacks(model: nn.Module, backend: Any = "inductor") -> int:
    """Compile every stack of blocks as one graph; returns their number. Names of weights do not change.

    A step checks and launches one graph for all layers, and drop path needs no graphs of its own; it takes longer to
    compile than blocks that share a graph. Rows with a mask of padding, packed rows and decoding run as before: without
    padding, their layout changes with each call.

    Raises: ValueError for a model without a stack, and with gradient checkpointing, which has to be around each block.
    """
    stacks = [module for module in model.modules() if isinstance(module, Stack)]
    if not stacks:
        name = type(model).__name__
        raise ValueError(f"compile=stack: {name} has no zoo.nn.Stack; use compile=true or compile=false")
    if any(stack.checkpointing for stack in stacks):
        raise ValueError("compile=stack does not work with gradient_checkpointing=true: use compile=blocks")
    for stack in stacks:
        compile_stack(stack, backend)
    return len(stacks)


def compile_stack(stack: Stack, backend: Any) -> None:
    """Compile one stack, in place."""
    stack.compile(backend=backend)
    compiled: Any = stack._compiled_call_impl

    def call(x: Tensor, context: Context | None = None, *, keep: Tensor | None = None, **options: Any) -> Any:
        packed = context is not None and context.groups is not None
        if (
            keep is not None
            or packed
            or stack.checkpointing
            or options.get("state") is not None
            or options.get("layers") is not None
            or options.get("lengths") is not None
        ):
            return cast(Any, stack)._call_impl(x, context, keep=keep, **options)
        return compiled(x, context)

    stack._compiled_call_impl = call


def compile_blocks(model: nn.Module, backend: Any = "inductor") -> int:
    """Compile every transformer block with `torch.compile`; returns their number. Names of weights do not change.

    Blocks that differ only in their weights share one compiled graph, so this takes a fraction of the time that the
    whole model takes. Packed rows without padding and decoding run as before: their layout changes with each call, and
    each layout would be compiled again.

    Raises: ValueError for a model without blocks.
    """
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    if not blocks:
        name = type(model).__name__
        raise ValueError(f"compile=blocks: {name} has no zoo.nn.Block; use compile=true or compile=false")
    # Blocks whose drop path differs have graphs of their own, in training and in evaluation.
    config.recompile_limit = max(config.recompile_limit, 4 * len(blocks))
    for block in blocks:
        compile_block(block, backend)
    return len(blocks)


def compile_block(block: Block, backend: Any) -> None:
    """Compile one block, in place."""
    block.compile(backend=backend)
    compiled: Any = block._compiled_call_impl

    def call(x: Tensor, context: Context = NO_CONTEXT, state: LayerState | None = None) -> Tensor:
        if context.groups is not None or state is not None:
            return cast(Any, block)._call_impl(x, context, state)
        return compiled(x, context, state)

    block._compiled_call_impl = call
