"""Decoding one token of each row without the overhead of modules.

To decode with a small model takes hardly more time than Python needs to get there: through modules, their attributes,
and decisions that are the same for every token. So they are taken once per text: `one_token_step` makes a function of
the tensors of a decoder of plain blocks. It computes what `model.decode` computes, with the same kernels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from operator import is_
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from zoo.inference.optimized_model import Optimized, to_float32
from zoo.inference.optimized_parts import (
    FusedAttention,
    JoinedProjections,
    SeparateProjections,
    identity,
    is_called_plainly,
)
from zoo.inference.packed_linear import ConstantLinear
from zoo.models.base import Model
from zoo.models.text import TextModel
from zoo.nn.attention import Attention, is_plain_linear
from zoo.nn.block import Block
from zoo.nn.context import Context
from zoo.nn.core import Core
from zoo.nn.frontends.text import count_positions
from zoo.nn.kv_cache import KVCache, StackState
from zoo.nn.masks import CAUSAL, NO_MASK
from zoo.nn.mlp import MLP
from zoo.nn.rotary import Rotary
from zoo.nn.sdpa import attend_to_all
from zoo.nn.softmax_attention import SoftmaxAttention
from zoo.nn.stack import Stack

Rows = Callable[[Tensor], Tensor]  # [B, D] -> [B, D']
BlockStep = Callable[[Tensor, Rotary | None], Tensor]  # [B, D] -> [B, D]


def one_token_step(model: Model, state: StackState) -> Callable[[Tensor], Tensor] | None:
    """A function that computes `model.decode(ids, state)` for ids [B, 1] without padding: scores [B, V].

    None for models whose modules must be called: with other kinds of blocks or attention, with hooks on these, compiled
    or sharded. Linear layers and norms with hooks or adapters are called as modules. If what runs between two tokens,
    such as a streamer, changes the model (a new weight, a hook of `zoo.capture`), the function calls `model.decode`.
    """
    if not isinstance(model, TextModel) or not decodes_as_text_model(model):
        return None
    if torch.is_autocast_enabled(model.device.type):
        return None  # `model.decode` decides whether it applies
    steps = [block_step(block, layer.mixer) for block, layer in zip(model.blocks, state, strict=True)]
    blocks = [step for step in steps if step is not None]
    if len(blocks) < len(steps) or type(model.blocks) is not Stack or not is_called_plainly(model.blocks):
        return None
    norm = (lambda x: x) if model.blocks.norm is None else by_rows(model.blocks.norm)
    head, is_cast = model.head, isinstance(model, Optimized)
    assert head is not None
    tables = tables_of(model)
    content = [*chain.from_iterable(map(dict.values, tables))]

    def is_unchanged() -> bool:
        now = [*chain.from_iterable(map(dict.values, tables))]
        same = len(now) == len(content) and all(map(is_, now, content))
        return same and not model.training and not _has_any_global_hook()

    def step(ids: Tensor) -> Tensor:
        positions = count_positions(None, 1, state.length, ids.device)
        context = model.context(positions)
        if not (sees_all(context) and is_unchanged()):
            return model.decode(ids, state)
        x, rotary = model.embed(ids, positions)[:, 0], context.rotary  # B D
        for i, block in enumerate(blocks):
            x = block(x, rotary[i] if isinstance(rotary, tuple) else rotary)
        state.advance(1)
        scores: Tensor = head(norm(x))
        return to_float32(scores) if is_cast else scores

    return step


def decodes_as_text_model(model: Model) -> bool:
    """Whether no subclass replaces how tokens are read. (Optimized models only cast inputs and outputs.)"""
    for name in ("decode", "encode"):
        owner = next(cls for cls in type(model).__mro__ if name in vars(cls) and cls is not Optimized)
        if owner is not TextModel or name in vars(model):
            return False
    return not model.training


def tables_of(model: nn.Module) -> list[dict[str, Any]]:
    """The dictionaries of a model's parameters, child modules and hooks."""
    tables: list[dict[Any, Any]] = []
    for module in model.modules():
        tables += [table for table in (module._parameters, module._modules) if table]
        tables += [module._forward_hooks, module._forward_pre_hooks]
    return tables


def sees_all(context: Context) -> bool:
    """Whether one new token attends to all tokens so far, without a bias or an encoder."""
    return context.mask in (CAUSAL, NO_MASK, None) and context.bias is None and context.memory is None


def block_step(block: Block, cache: Any) -> BlockStep | None:
    """A function that computes a pre-norm block for one token: x [B, D] -> [B, D]; None for other blocks."""
    attend = attention_step(block.mixer, cache) if is_pre_norm(block) else None
    if attend is None:
        return None
    norm1, norm2, mlp = by_rows(block.norm1), by_rows(block.norm2), mlp_step(block.mlp)  # type: ignore[arg-type]

    def step(x: Tensor, rotary: Rotary | None) -> Tensor:
        x = x + attend(norm1(x), rotary)
        return x + mlp(norm2(x))

    return step


def is_pre_norm(block: Block) -> bool:
    """Whether a block is x + mixer(norm1(x)) and then x + mlp(norm2(x)), and nothing else."""
    plain = type(block) is Block and is_called_plainly(block) and block.order == "pre" and block.norm2 is not None
    return plain and block.cross is None and block.scale1 is None and block.scale2 is None


def attention_step(attention: nn.Module, cache: Any) -> BlockStep | None:
    """A function that computes softmax attention for one token: x [B, D] -> [B, D]; None for other mixers."""
    core = plain_core(attention)
    if type(core) is not SoftmaxAttention or core.pattern != NO_MASK or type(cache) is not KVCache:
        return None
    assert isinstance(attention, Attention)
    q_norm, k_norm = attention.q_norm, attention.k_norm
    project, out, scale = projections(attention), by_rows(attention.out), core.scale
    counts = [core.spec.heads, core.spec.kv_heads]

    def step(x: Tensor, rotary: Rotary | None) -> Tensor:
        q, k, v = project(x)
        if q_norm is not None and k_norm is not None:
            q, k = q_norm(q), k_norm(k)
        if rotary is not None:
            q, k = rotary(torch.cat([q, k], 1)).split_with_sizes(counts, 1)
        k, v = cache.append(k, v)
        return out(attend_to_all(q, k, v, scale).reshape(x.shape[0], -1))

    return step


def plain_core(attention: nn.Module) -> SoftmaxAttention | None:
    """The softmax core, also with a pattern, of an attention that computes nothing else; None for other mixers."""
    if type(attention) not in (Attention, FusedAttention) or not is_called_plainly(attention):
        return None
    core: Any = attention.core
    plain = isinstance(core, SoftmaxAttention) and is_called_plainly(core) and "decode" not in vars(core)
    plain = plain and type(core).forward is SoftmaxAttention.forward and type(core).decode is Core.decode
    return core if plain else None


def projections(attention: Attention) -> Callable[[Tensor], Sequence[Tensor]]:
    """A function that computes the heads of q, k and v [B, H, 1, P] from x [B, D]."""
    parts = attention.projections if isinstance(attention, FusedAttention) else attention
    dim = attention.head_dim
    if isinstance(parts, JoinedProjections) and is_called_plainly(parts):
        joined, sizes = by_rows(parts.joined), parts.sizes
        return lambda x: joined(x).view(x.shape[0], -1, 1, dim).split_with_sizes(sizes, 1)
    if not isinstance(parts, Attention | SeparateProjections) or not is_called_plainly(parts):
        return lambda x: parts(x[:, None])
    q, k, v = by_rows(parts.q), by_rows(parts.k), by_rows(parts.v)

    def project(x: Tensor) -> Sequence[Tensor]:
        shape = (x.shape[0], -1, 1, dim)
        return q(x).view(shape), k(x).view(shape), v(x).view(shape)

    return project


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


def by_rows(module: nn.Module) -> Rows:
    """A function that computes a module for rows [B, D]; modules that are not known get [B, 1, D]."""
    if is_called_plainly(module):
        if is_plain_linear(module):
            return partial(F.linear, weight=module.weight, bias=module.bias)  # type: ignore[arg-type]
        if type(module) is nn.LayerNorm:
            shape, weight, bias, eps = module.normalized_shape, module.weight, module.bias, module.eps
            return partial(torch.layer_norm, normalized_shape=shape, weight=weight, bias=bias, eps=eps)
        if type(module) is nn.RMSNorm:
            shape, weight = module.normalized_shape, module.weight
            return partial(torch.rms_norm, normalized_shape=shape, weight=weight, eps=module.eps)
        if isinstance(module, ConstantLinear):
            return module.product() if module.act is None else module.forward
    return lambda x: module(x[:, None])[:, 0]
