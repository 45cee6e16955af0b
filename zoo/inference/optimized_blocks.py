"""The blocks of an optimized model, compiled by torch.compile for the calls in which that pays."""

import importlib.util
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.nn.block import NO_CONTEXT, Block
from zoo.nn.context import Context
from zoo.nn.kv_cache import LayerState

MIN_TOKENS = 128  # rows * tokens from which a block is compiled
OPTIONS: dict[str, Any] = {"backend": "inductor"}


class CompiledBlock(Block):
    """A block whose dense forward passes are compiled; calls with packed rows, caches or hooks are not.

    Packed rows have another layout in each batch, and would be compiled each time.
    """

    compiled: Callable[..., Tensor]
    hooks: list[dict[int, Any]]  # of its modules: compiled code does not call those that come later

    def forward(self, x: Tensor, context: Context = NO_CONTEXT, state: LayerState | None = None) -> Tensor:
        dense = state is None and context.groups is None and x.shape[0] * x.shape[1] >= MIN_TOKENS
        if not dense or any(self.hooks):
            return super().forward(x, context, state)
        return self.compiled(self, x, context)


def compile_blocks(model: nn.Module) -> int:
    """Compile the blocks of a model in their next call; returns their number.

    They share one function, so layers of the same structure are compiled once: the weights are inputs of the code.
    """
    blocks = [module for module in model.modules() if type(module) is Block]
    compiled = torch.compile(own_code(Block.forward), **OPTIONS)
    for block in blocks:
        faster: Any = block
        faster.__class__ = CompiledBlock
        faster.compiled = compiled
        faster.hooks = [t for module in block.modules() for t in (module._forward_hooks, module._forward_pre_hooks)]
    return len(blocks)


def own_code(function: Any) -> Any:
    """A function with a code object of its own: torch.compile limits the number of variants of each code object."""
    copy = types.FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    copy.__defaults__, copy.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return copy


def why_not_compiled(device: torch.device) -> str | None:
    """Why nothing can be compiled for a device; None if it can."""
    if device.type != "cuda":
        return f"torch.compile is used on CUDA, and the model is on {device.type!r}"
    if importlib.util.find_spec("triton") is None:
        return "torch.compile needs triton, which is not installed: pip install triton"
    if torch.cuda.get_device_capability(device) < (7, 0):
        return f"triton needs compute capability 7.0, and {torch.cuda.get_device_name(device)} is older"
    return None
