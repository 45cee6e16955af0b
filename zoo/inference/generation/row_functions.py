"""Layers as functions of rows [B, D] -> [B, D'], without calls of modules: what steps of one token consist of.

A product of few rows and a large weight takes as long as it takes to read the weight, and MKL, which computes
`F.linear`, needs longer. Medians of torch.utils.benchmark in ms (AMD EPYC Zen 4, one thread, torch 2.12.1), by
`F.linear`, by oneDNN from the same weight, and with the operands exchanged, W x^T:

    512 -> 32128, 1 row      6.2   4.5   6.2
    4 rows                  10.9   7.4   6.3
    8 rows                  11.9   8.5   8.0
    16 rows                 15.4  11.1  20.7
    2048 -> 512, 8 rows     0.37  0.28  0.48

One row is faster still by `chunked_product`: 512 -> 32128 in 3.2 ms.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.inference.optimized_parts import identity, is_called_plainly
from zoo.inference.packed_linear import ConstantLinear, chunked_product, chunks_of, is_chunkable, onednn_dtypes
from zoo.nn.attention import is_plain_linear
from zoo.nn.heads import LMHead
from zoo.nn.mlp import MLP
from zoo.nn.rms_norm import UnitOffsetRMSNorm, unit_offset_rms_norm
from zoo.nn.sdpa import soft_capped
from zoo.utils.cpu_features import is_intel

Rows = Callable[[Tensor], Tensor]  # [B, D] -> [B, D']

LEAST_CHUNKED = 1 << 14  # numbers of a weight from which one row is faster by `chunked_product`
LARGE_WEIGHT = 1 << 18  # numbers of a weight from which the kernel of a product matters more than its call
MOST_EXCHANGED = 8  # up to so many rows W x^T is faster, if it has more outputs than inputs


def by_rows(module: nn.Module) -> Rows:
    """A function that computes a module for rows [B, D]; modules that are not known get [B, 1, D]."""
    if is_called_plainly(module):
        if is_plain_linear(module):
            return product(module.weight, module.bias)  # type: ignore[arg-type]
        if type(module) is nn.LayerNorm:
            shape, weight, bias, eps = module.normalized_shape, module.weight, module.bias, module.eps
            return partial(torch.layer_norm, normalized_shape=shape, weight=weight, bias=bias, eps=eps)
        if type(module) is nn.RMSNorm:
            shape, weight = module.normalized_shape, module.weight
            return partial(torch.rms_norm, normalized_shape=shape, weight=weight, eps=module.eps)
        if type(module) is UnitOffsetRMSNorm:
            return partial(unit_offset_rms_norm, weight=module.weight, eps=module.eps)
        if isinstance(module, ConstantLinear):
            return module.product() if module.act is None else module.forward
    return lambda x: module(x[:, None])[:, 0]


def product(weight: Tensor, bias: Tensor | None) -> Rows:
    """A function that computes x W^T + b for few rows, by the fastest kernel that takes the weight as it is."""
    several = product_of_several(weight, bias)
    if weight.numel() < LEAST_CHUNKED or not is_chunkable(weight) or is_intel():  # not measured on Intel's CPUs
        return several
    chunks, rest = chunks_of(weight)
    return partial(chunked_product, chunks=chunks, rest=rest, bias=bias, several=several)


def product_of_several(weight: Tensor, bias: Tensor | None) -> Rows:
    """`product` where one row is computed like several."""
    plain: Rows = partial(F.linear, weight=weight, bias=bias)
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or weight.numel() < LARGE_WEIGHT:
        return plain
    if weight.dtype not in onednn_dtypes() or not weight.is_contiguous():
        return plain
    by_onednn: Rows = partial(
        torch.ops.mkldnn._linear_pointwise._op, W=weight, B=bias, attr="none", scalars=[], algorithm=""
    )
    if weight.shape[0] < weight.shape[1]:
        return by_onednn
    column = None if bias is None else bias[:, None]

    def step(x: Tensor) -> Tensor:
        if not 1 < x.shape[0] <= MOST_EXCHANGED:
            return by_onednn(x)
        y = weight @ x.t() if column is None else torch.addmm(column, weight, x.t())
        return y.t().contiguous()

    return step


def head_step(head: nn.Module) -> Rows:
    """A function that computes the scores [B, V] of a language-model head from hidden states [B, D]."""
    if not isinstance(head, LMHead) or type(head).forward is not LMHead.forward or not is_called_plainly(head):
        return head
    project, features, softcap = by_rows(head.proj), head.features, head.softcap
    if type(head) is LMHead and head.scale == 1 and softcap is None:
        return project
    return lambda x: soft_capped(project(features(x)), softcap)


def mlp_step(mlp: nn.Module) -> Rows:
    """A function that computes an MLP of rows [B, D]."""
    if type(mlp) is not MLP or not is_called_plainly(mlp):
        return by_rows(mlp)
    hidden, down = hidden_step(mlp), by_rows(mlp.down)
    return lambda x: down(hidden(x))


def hidden_step(mlp: MLP) -> Rows:
    """A function that computes the hidden features of an MLP for rows [B, D]."""
    up, act = by_rows(mlp.up), mlp.act
    gate = None if mlp.gate is None else by_rows(mlp.gate)
    if act is identity:  # the first product includes the activation
        return up if gate is None else lambda x: gate(x) * up(x)
    return (lambda x: act(up(x))) if gate is None else (lambda x: act(gate(x)) * up(x))
