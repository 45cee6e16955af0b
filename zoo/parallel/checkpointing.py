"""Activation checkpointing: what the backward pass of a block recomputes."""

from collections import Counter
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from zoo.nn.stack import Stack

_aten, _exchanges = torch.ops.aten, torch.ops._c10d_functional
PRODUCTS = {_aten.mm.default, _aten.addmm.default}
KEPT = {
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _exchanges.all_reduce.default,
    _exchanges.reduce_scatter_tensor.default,
}  # what takes long to compute, or an exchange between processes, for its size


def recompute(model: nn.Module, what: Literal["full", "selective"]) -> None:
    """Recompute activations in the backward pass, in place: all but the inputs of blocks, or what is cheap to compute.

    `selective` keeps the outputs of attention and of every second matrix product.
    """
    for stack in model.modules():
        if isinstance(stack, Stack):
            stack.checkpointing = True
            if what == "selective":
                stack.keeps = {"context_fn": selective_contexts}


def selective_contexts() -> Any:
    """The contexts of the forward pass of a block, and of its second one."""
    products = Counter[bool]()

    def policy(context: Any, function: Any, *args: Any, **options: Any) -> CheckpointPolicy:
        products[context.is_recompute] += function in PRODUCTS
        keep = function in KEPT or (function in PRODUCTS and products[context.is_recompute] % 2 == 1)
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)
