"""Compile the blocks of a model, in place, one after the other."""

from typing import Any, cast

from torch import Tensor, nn
from torch._dynamo import config

from zoo.nn.block import NO_CONTEXT, Block
from zoo.nn.context import Context
from zoo.nn.kv_cache import LayerState


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
