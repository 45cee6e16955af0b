"""Decoding one token of each row without the overhead of modules.

To decode with a small model takes hardly more time than Python needs to get there: through modules, their attributes,
and decisions that are the same for every token. So they are taken once per text: `one_token_step` makes a function of
the tensors of a decoder of plain blocks, with or without an encoder. It computes what `model.decode` computes; products
with large weights by other kernels, whose results differ by their rounding.
"""

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import chain
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from zoo.inference.generation.row_functions import Rows, by_rows, head_step, mlp_step
from zoo.inference.generation.step_biases import MemoryBias, TokenBiases
from zoo.inference.optimized_model import Optimized, to_float32
from zoo.inference.optimized_parts import FusedAttention, JoinedProjections, SeparateProjections, is_called_plainly
from zoo.models.base import Model
from zoo.models.bridge.model import Bridge
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.models.text import TextModel
from zoo.models.text_to_image import TextToImageModel
from zoo.nn.attention import Attention
from zoo.nn.block import Block
from zoo.nn.context import Context
from zoo.nn.core import Core
from zoo.nn.frontends.text import count_positions
from zoo.nn.gated_cross import GatedCrossAttention, TanhGate
from zoo.nn.kv_cache import EncoderDecoderState, KVCache, LayerState, StackState, sees_itself
from zoo.nn.masks import CAUSAL, NO_MASK, Mask, Window
from zoo.nn.position_biases import T5RelativeBias
from zoo.nn.rotary import Rotary
from zoo.nn.sdpa import attend_to_all
from zoo.nn.softmax_attention import SoftmaxAttention
from zoo.nn.sparse.block_masks import is_constant
from zoo.nn.sparse_attention import LocalAttention, SparseAttention
from zoo.nn.stack import Stack
from zoo.nn.window_cache import WindowCache


class Inputs(NamedTuple):
    """What all blocks share in one step: rotary embeddings; what is added to the scores of the tokens so far [1, H, 1,
    M], and to those of the encoder's states [B, 1, 1, M]."""

    rotary: Rotary | None
    bias: Tensor | None
    memory_bias: Tensor | None


BlockStep = Callable[[Tensor, Inputs], Tensor]  # [B, D] -> [B, D]


def one_token_step(model: Model, state: StackState) -> Callable[[Tensor], Tensor] | None:
    """A function that computes `model.decode(ids, state)` for ids [B, 1] without padding: scores [B, V].

    None for models whose modules must be called: with other kinds of blocks or attention, with hooks on these, compiled
    or sharded. Linear layers and norms with hooks or adapters are called as modules. If what runs between two tokens,
    such as a streamer, changes the model (a new weight, a hook of `zoo.capture`), the function calls `model.decode`.
    An encoder has been read, and the first token with it.
    """
    stack = stack_of(model)
    if stack is None or torch.is_autocast_enabled(model.device.type):  # `model.decode` decides whether it applies
        return None
    if isinstance(state, EncoderDecoderState) and has_empty_text(state.memory_mask):
        return None
    steps = [block_step(block, layer) for block, layer in zip(stack, state, strict=True)]
    decoder = decoder_of(model)
    for i, gated in (model.gated_cross.before if isinstance(model, Bridge) and model.gated_cross else {}).items():
        steps[i] = in_turn(gated_cross_step(gated, state[i]), steps[i])
    blocks = [step for step in steps if step is not None]
    if len(blocks) < len(steps):
        return None
    norm = (lambda x: x) if stack.norm is None else by_rows(stack.norm)
    assert decoder.head is not None
    head, is_cast = head_step(decoder.head), isinstance(model, Optimized)
    embed, context_of = embedding_and_context(decoder)
    biases, memory_bias = TokenBiases(), MemoryBias(state)
    tables = tables_of(model)
    content = [*chain.from_iterable(map(dict.values, tables))]

    def is_unchanged() -> bool:
        now = [*chain.from_iterable(map(dict.values, tables))]
        same = len(now) == len(content) and all(map(is_, now, content))
        return same and not model.training and not _has_any_global_hook()

    def step(ids: Tensor) -> Tensor:
        positions = count_positions(None, 1, state.length, ids.device)
        context = context_of(positions)
        if not (sees_all(context) and is_unchanged()):
            scores: Tensor = model.decode(ids, state)
            return scores
        x, rotary = embed(ids, positions)[:, 0], context.rotary  # B D
        bias = None if context.bias is None else biases.row(context.bias, state.length + 1, x)  # type: ignore[arg-type]
        inputs = Inputs(None if isinstance(rotary, tuple) else rotary, bias, memory_bias(x))
        for i, block in enumerate(blocks):
            x = block(x, inputs._replace(rotary=rotary[i]) if isinstance(rotary, tuple) else inputs)
        state.advance(1)
        scores = head(norm(x))
        return to_float32(scores) if is_cast else scores

    return step


def decoder_of(model: Model) -> Model:
    """The text tower of a bridge; other models as they are."""
    return model.text if isinstance(model, Bridge) else model


def stack_of(model: Model) -> Stack | None:
    """The decoder's blocks, if no subclass and no hook changes how they read tokens; else None."""
    if isinstance(model, Bridge):
        plain = decodes_as(Bridge, model, "decode") and is_called_plainly(model.text)
        return stack_of(model.text) if plain else None
    if isinstance(model, TextModel) and decodes_as_text_model(model):
        stack = model.blocks
    elif isinstance(model, EncoderDecoder) and decodes_as(EncoderDecoder, model, "decode", "run_decoder"):
        if model.decoder is None or not is_called_plainly(model.decoder):
            return None
        stack = model.decoder.blocks
    else:
        return None
    return stack if type(stack) is Stack and is_called_plainly(stack) else None


def decodes_as(base: type[Model], model: Model, *names: str) -> bool:
    """Whether a model in evaluation mode has these methods from `base`. (Optimized models only cast.)"""
    for name in names:
        owner = next(cls for cls in type(model).__mro__ if name in vars(cls) and cls is not Optimized)
        if owner is not base or name in vars(model):
            return False
    return not model.training


def decodes_as_text_model(model: Model) -> bool:
    """Whether no subclass replaces how tokens are read; that of text-to-image models only joins a text and an image."""
    owner = TextToImageModel if isinstance(model, TextToImageModel) else TextModel
    return decodes_as(TextModel, model, "decode") and decodes_as(owner, model, "encode")


def has_empty_text(keep: Tensor | None) -> bool:
    """Whether a row of a mask [B, N] has only padding: attention to it is zero by another way."""
    return keep is not None and not bool(keep.any(1).all())


def embedding_and_context(model: Any) -> tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Context]]:
    """Functions of a decoder: ids and positions -> embeddings, and positions -> masks and biases."""
    if isinstance(model, EncoderDecoder):
        return model.tokens, model.decoder_context
    return model.embed, model.context


def tables_of(model: nn.Module) -> list[dict[str, Any]]:
    """The dictionaries of a model's parameters, buffers, child modules and hooks."""
    tables: list[dict[Any, Any]] = []
    for module in model.modules():
        tables += [table for table in (module._parameters, module._buffers, module._modules) if table]
        tables += [module._forward_hooks, module._forward_pre_hooks]
    return tables


def sees_all(context: Context) -> bool:
    """Whether one new token attends to all tokens so far, without a bias or with T5's."""
    known_bias = context.bias is None or type(context.bias) is T5RelativeBias
    return context.mask in (CAUSAL, NO_MASK, None) and known_bias and context.memory is None


# --- Blocks -----------------------------------------------------------------------------------------------------------


def block_step(block: Block, layer: LayerState) -> BlockStep | None:
    """A function that computes a block for one token: x [B, D] -> [B, D]; None for blocks that are not known."""
    if not is_plain_block(block):
        return None
    attend = attention_step(block.mixer, layer.mixer)
    cross = None if block.cross is None else cross_attention_step(block.cross, layer)
    if attend is None or (cross is None) != (block.cross is None):
        return None
    norm1, norm2, mlp = by_rows(block.norm1), by_rows(block.norm2), mlp_step(block.mlp)  # type: ignore[arg-type]
    cross_norm: Rows = (lambda x: x) if block.cross_norm is None else by_rows(block.cross_norm)

    def pre_norm(x: Tensor, inputs: Inputs) -> Tensor:
        x = x + attend(norm1(x), inputs)
        if cross is not None:
            x = x + cross(cross_norm(x), inputs)
        return x + mlp(norm2(x))

    def post_norm(x: Tensor, inputs: Inputs) -> Tensor:
        x = norm1(x + attend(x, inputs))
        if cross is not None:
            x = cross_norm(x + cross(x, inputs))
        return norm2(x + mlp(x))

    if block.post_norm1 is None or block.post_norm2 is None:
        return pre_norm if block.order == "pre" else post_norm
    post1, post2 = by_rows(block.post_norm1), by_rows(block.post_norm2)

    def sandwich_norm(x: Tensor, inputs: Inputs) -> Tensor:
        x = x + post1(attend(norm1(x), inputs))
        return x + post2(mlp(norm2(x)))

    return sandwich_norm


def is_plain_block(block: Block) -> bool:
    """Whether a block is of residual branches, each with a norm before, after or around it, and nothing else."""
    plain = type(block) is Block and is_called_plainly(block) and block.norm2 is not None
    return plain and block.order in ("pre", "post", "sandwich") and block.scale1 is None and block.scale2 is None


def attention_step(attention: nn.Module, cache: Any) -> BlockStep | None:
    """A function that computes softmax attention, also to a window, for one token: x [B, D] -> [B, D]; None for other
    mixers."""
    core = plain_core(attention)
    seen = None if core is None else seen_by_newest(core, cache)
    if core is None or seen is None:
        return None
    assert isinstance(attention, Attention)
    q_norm, k_norm = attention.q_norm, attention.k_norm
    project, out, scale, softcap = projections(attention), by_rows(attention.out), core.scale, core.spec.softcap
    counts = [core.spec.heads, core.spec.kv_heads]
    numbers = attention.kept_heads  # of the bias
    kept = None if numbers is None else torch.tensor(numbers, device=cache.k.device)

    def step(x: Tensor, inputs: Inputs) -> Tensor:
        q, k, v = project(x)
        if q_norm is not None and k_norm is not None:
            q, k = q_norm(q), k_norm(k)
        if inputs.rotary is not None:
            q, k = inputs.rotary(torch.cat([q, k], 1)).split_with_sizes(counts, 1)
        k, v = cache.append(k, v)
        k, v, bias = seen(k, v, inputs.bias)
        if kept is not None and bias is not None:
            bias = bias.index_select(1, kept)
        return out(attend_to_all(q, k, v, scale, bias, softcap).reshape(x.shape[0], -1))

    return step


Seen = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor | None]]


def seen_by_newest(core: SoftmaxAttention, cache: Any) -> Seen | None:
    """A function that takes from all keys and values so far [B, G, M, P], and biases [1, H, 1, M], those that the
    newest token sees; None for patterns that are not known."""
    if type(core) is SoftmaxAttention and core.pattern == NO_MASK and type(cache) is KVCache:
        return last_tokens(sys.maxsize)
    if type(core) is LocalAttention and type(cache) is WindowCache and core.pattern == Window(cache.left, 0):
        return last_tokens(cache.left + 1)
    plain = isinstance(core, SparseAttention) and type(core).forward is SoftmaxAttention.forward
    if plain and type(cache) is KVCache and is_constant(core.pattern) and sees_itself(core.pattern):
        return partial(tokens_of_pattern, core.pattern)
    return None


def last_tokens(count: int) -> Seen:
    """The last `count` tokens."""

    def seen(k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        if k.shape[2] > count:
            k, v = k[:, :, -count:], v[:, :, -count:]
        return k, v, None if bias is None else bias[..., -k.shape[2] :]

    return seen


def tokens_of_pattern(pattern: Mask, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The tokens that the last one sees by a pattern of positions."""
    index = seen_at(pattern, k.shape[2], k.device)
    bias = None if bias is None else bias.index_select(3, index)
    return k.index_select(2, index), v.index_select(2, index), bias


@lru_cache(maxsize=8192)  # the layers and texts of a model share them
def seen_at(pattern: Mask, tokens: int, device: torch.device) -> Tensor:
    """The positions [n] that the last of so many tokens sees."""
    with torch.inference_mode(False):
        return pattern.dense(1, tokens, device)[0, 0, 0].nonzero()[:, 0]


def cross_attention_step(attention: nn.Module, layer: LayerState) -> BlockStep | None:
    """A function that computes softmax attention to the encoder's states for one token: x [B, D] -> [B, D].

    Several rows in a row may decode the same text; they are queries of the same keys. None for other mixers, and if
    the keys and values are not there yet.
    """
    core = plain_core(attention)
    if type(core) is not SoftmaxAttention or core.pattern != NO_MASK or layer.memory is None:
        return None
    if core.spec.softcap is not None:
        return None
    assert isinstance(attention, Attention)
    if "q" not in attention._modules:
        return None
    project, out, scale = by_rows(attention.q), by_rows(attention.out), core.scale
    heads, dim, norm = core.spec.heads, attention.head_dim, attention.q_norm

    def step(x: Tensor, inputs: Inputs) -> Tensor:
        assert layer.memory is not None
        k, v = layer.memory
        q = project(x).view(len(k), -1, heads, dim).transpose(1, 2)  # B H c P
        q = q if norm is None else norm(q)
        y = attend_to_all(q, k, v, scale, inputs.memory_bias)
        return out(y.transpose(1, 2).reshape(x.shape[0], -1))

    return step


def gated_cross_step(block: nn.Module, layer: LayerState) -> BlockStep | None:
    """A function that computes gated cross-attention for one token: x [B, D] -> [B, D]; None if it is not known.

    Without images there are no keys and values, and only its MLP has a part.
    """
    if not isinstance(block, GatedCrossAttention) or not is_called_plainly(block):
        return None
    gates: tuple[Any, Any] = (block.gate1, block.gate2)
    cross = None if layer.memory is None else cross_attention_step(block.cross, layer)
    known = all(type(gate) is TanhGate and is_called_plainly(gate) for gate in gates)
    if not known or (cross is None) != (layer.memory is None):
        return None
    parts: Any = block
    norm1, norm2, mlp = by_rows(parts.norm1), by_rows(parts.norm2), mlp_step(parts.mlp)
    alpha1, alpha2 = gates[0].alpha, gates[1].alpha

    def step(x: Tensor, inputs: Inputs) -> Tensor:
        if cross is not None:
            x = x + cross(norm1(x), inputs) * alpha1.tanh()
        return x + mlp(norm2(x)) * alpha2.tanh()

    return step


def in_turn(first: BlockStep | None, second: BlockStep | None) -> BlockStep | None:
    """Both functions, one after the other; None if one of them is."""
    if first is None or second is None:
        return None
    return lambda x, inputs: second(first(x, inputs), inputs)


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
