"""One token of each row by operations on tensors whose shapes and addresses never change, as CUDA graphs need it.

The numbers are those of `model.decode`. Positions and lengths are tensors, no Python decision depends on a value, and
the host never waits for the device. Blocks that `one_token` knows are computed without their modules, all others by
them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.inference.generation.one_token import decodes_as_text_model, is_pre_norm, plain_core, projections
from zoo.inference.generation.row_functions import Rows, by_rows, hidden_step
from zoo.inference.optimized_parts import JoinedProjections, is_called_plainly
from zoo.inference.packed_linear import FusedActivationLinear
from zoo.models.base import Model
from zoo.models.text import TextModel
from zoo.nn.attention import Attention, is_plain_linear
from zoo.nn.block import Block
from zoo.nn.context import Context
from zoo.nn.kernels import HALF
from zoo.nn.kv_cache import (
    KVCache,
    LayerState,
    LinearAttentionState,
    StackState,
    StaticKVCache,
    StaticMaskView,
    sees_itself,
)
from zoo.nn.masks import CAUSAL, Mask, MaskView, as_mask
from zoo.nn.mlp import ACTIVATIONS, MLP
from zoo.nn.rotary import Rotary
from zoo.nn.sdpa import fold_groups
from zoo.nn.stack import Stack
from zoo.nn.window_cache import WindowCache

# Which kernels a step consists of; each kernel less saves microseconds of every layer.
FLASH = True  # half precision on a GPU: attention reads only the tokens that are there, without a mask
FLASH_WITH_SHARED_HEADS = False  # also where queries share keys, which takes flash attention more kernels
GELU_IN_PRODUCT = True  # on a GPU: bias and tanh GELU are a part of the product before
ADD_IN_PRODUCT = True  # products without a bias are added to the residual stream by the same kernel

Attend = Callable[[Tensor, Rotary | None], Tensor]


def can_decode_statically(model: Model) -> bool:
    """Whether all that a step of the model runs is known, so that it may be recorded once and replayed."""
    if not isinstance(model, TextModel) or not decodes_as_text_model(model) or type(model.blocks) is not Stack:
        return False
    if torch.is_autocast_enabled(model.device.type):
        return False
    tensors = [*model.parameters(), *model.buffers()]
    plain = all(type(tensor.data) is Tensor and tensor.device == model.device for tensor in tensors)
    return plain and all(map(is_known, model.modules()))


def is_known(module: nn.Module) -> bool:
    """Whether a module is one of zoo or torch, without hooks: others may run code that differs from call to call."""
    return type(module).__module__.split(".")[0] in ("zoo", "torch") and is_called_plainly(module)


class SignedRotary(Rotary):
    """A rotary embedding in three kernels instead of six: x * cos + (x, its halves exchanged) * (-sin, sin)."""

    @classmethod
    def of(cls, table: Rotary) -> Rotary:
        if table.interleaved:
            return table
        low, high = table.sin.chunk(2, -1)
        return cls(table.cos, torch.cat([-low, high], -1))

    def at_positions(self, positions: Tensor, queries: int) -> Rotary:
        return SignedRotary(self.cos[positions][:, None], self.sin[positions][:, None])

    def __call__(self, x: Tensor) -> Tensor:
        width = self.cos.shape[-1]
        if width < x.shape[-1]:
            return torch.cat([self(x[..., :width]), x[..., width:]], -1)
        y = torch.empty_like(x)
        return torch.addcmul(x * self.cos, x.roll(width // 2, -1), self.sin, out=y)


def rotate_in_place(x: Tensor, rotary: Rotary | None) -> None:
    if isinstance(rotary, SignedRotary):
        x = x[..., : rotary.cos.shape[-1]]
        torch.addcmul(x * rotary.cos, x.roll(x.shape[-1] // 2, -1), rotary.sin, out=x)
    elif rotary is not None:
        x.copy_(rotary(x))


class StaticStep:
    """Reads the tokens `ids` [B, 1] at `positions` [B, 1], writes the scores of the next ones [B, V], and advances the
    positions.

    capacity: the most tokens of a row.
    """

    def __init__(self, model: TextModel, ids: Tensor, positions: Tensor, scores: Tensor, capacity: int) -> None:
        self.model, self.ids, self.positions, self.scores = model, ids, positions, scores
        self.capacity = capacity
        self.like = model.tokens.word.weight
        self.state = static_state(model.new_state(len(ids), 1), positions, capacity, self.like)
        self.sums = [
            (layer.mixer, layer.mixer.top, layer.mixer.sum)
            for layer in self.state
            if isinstance(layer.mixer, LinearAttentionState)
        ]
        self.context = model.context(torch.arange(capacity, device=ids.device))
        if self.context.memory is not None:
            raise NotImplementedError("a decoder with an encoder")
        tables = self.context.rotary if isinstance(self.context.rotary, tuple) else (self.context.rotary,)
        self.turns = {table: SignedRotary.of(table) for table in tables if table is not None}
        self.keys = torch.arange(capacity, device=ids.device)
        self.used = torch.zeros(len(ids), dtype=torch.int32, device=ids.device)  # tokens of each row in this step
        self.masks: dict[Mask, tuple[StaticMaskView, Tensor]] = {}  # of each pattern, with its values as a bias
        self.zero, self.lowest = self.like.new_tensor(0.0), self.like.new_tensor(-torch.inf)
        self.blocks = [self.static_block(block, layer) for block, layer in zip(model.blocks, self.state, strict=True)]
        self.norm = (lambda x: x) if model.blocks.norm is None else by_rows(model.blocks.norm)

    def load(self, state: StackState, keep: Tensor | None) -> None:
        """Begin with the tokens of a state; keep [B, N]: which of them are real. Rows are stored without padding."""
        order = None
        if keep is None:
            self.positions.fill_(state.length)
        else:
            self.positions.copy_(keep.sum(1, keepdim=True))
            order = (~keep).byte().argsort(dim=1, stable=True)
        for own, other in zip(self.state, state, strict=True):
            if isinstance(own.mixer, StaticKVCache):
                assert isinstance(other.mixer, KVCache)
                own.mixer.load(other.mixer, order)
            else:
                assert isinstance(own.mixer, LinearAttentionState) and isinstance(other.mixer, LinearAttentionState)
                own.mixer.top.copy_(other.mixer.top)
                own.mixer.sum.copy_(other.mixer.sum)

    def load_static(self, other: "StaticStep") -> None:
        """Continue from a step of less capacity with the same positions."""
        for own, layer in zip(self.state, other.state, strict=True):
            if isinstance(own.mixer, StaticKVCache) and isinstance(layer.mixer, StaticKVCache):
                own.mixer.keys_and_values.zero_()
                own.mixer.keys_and_values[:, :, : other.capacity] = layer.mixer.keys_and_values
        for (_, top, total), (_, other_top, other_total) in zip(self.sums, other.sums, strict=True):
            top.copy_(other_top)
            total.copy_(other_total)

    def __call__(self) -> None:
        model, positions = self.model, self.positions
        x = model.embed(self.ids, positions)[:, 0]
        context = self.context_at(positions)
        torch.add(positions[:, 0], 1, out=self.used)
        for view, bias in self.masks.values():
            seen = view.inner == CAUSAL  # without the kernels of index functions
            allowed = (self.keys <= positions)[:, None, None] if seen else view.dense(1, self.capacity, bias.device)
            torch.where(allowed, self.zero, self.lowest, out=bias)
        for i, block in enumerate(self.blocks):
            x = block(x, context.layer(i))
        self.scores.copy_(model.head(self.norm(x)))  # type: ignore[misc]
        for state, top, total in self.sums:
            top.copy_(state.top)
            total.copy_(state.sum)
            state.top, state.sum = top, total
        positions.add_(1)

    def context_at(self, positions: Tensor) -> Context:
        """The context of one token of each row: the rotary tables of all positions are computed once."""
        turned = self.context.rotary
        if isinstance(turned, tuple):
            at = {table: self.turns[table].at_positions(positions, 1) for table in set(turned)}
            turned = tuple(at[table] for table in turned)
        elif turned is not None:
            turned = self.turns[turned].at_positions(positions, 1)
        return replace(self.context, mask=MaskView(as_mask(self.context.mask)), rotary=turned)

    def bias_of(self, mask: Mask) -> Tensor:
        """The tensor that holds the values of a mask in each step: 0, or -inf where it hides [B, 1 or H, 1, M]."""
        if mask not in self.masks:
            view = StaticMaskView.of(mask, self.positions)
            self.masks[mask] = view, self.like.new_zeros(view.dense(1, self.capacity, self.positions.device).shape)
        return self.masks[mask][1]

    def static_block(self, block: Block, layer: LayerState) -> Callable[[Tensor, Context], Tensor]:
        """A function (x [B, D], context) -> [B, D] of one block."""
        plain = self.context.bias is None and is_pre_norm(block)
        attend = self.static_attention(block.mixer, layer.mixer) if plain else None
        if attend is None:
            return lambda x, context: block(x[:, None], context, layer)[:, 0]
        norm1, norm2 = by_rows(block.norm1), by_rows(block.norm2)  # type: ignore[arg-type]
        out: Any = block.mixer.out
        add_attention, (hidden, add_hidden) = add_product(out), mlp_parts(block.mlp)  # type: ignore[arg-type]

        def step(x: Tensor, context: Context) -> Tensor:
            x = add_attention(x, attend(norm1(x), context.rotary))  # type: ignore[arg-type]
            return add_hidden(x, hidden(norm2(x)))

        return step

    def static_attention(self, attention: nn.Module, cache: Any) -> Attend | None:
        """Softmax attention of one token of each row to the buffers of a static cache, before its last product:
        x [B, D] -> [B, H * P]."""
        core = plain_core(attention)
        if core is None or core.spec.softcap is not None or not isinstance(cache, StaticKVCache):
            return None
        assert isinstance(attention, Attention)
        mask = as_mask(self.context.mask) & core.pattern
        if not sees_itself(mask):
            return None  # rows without any key are set to zero there
        queries, values = core.spec.heads, core.spec.kv_heads
        q_norm, k_norm = attention.q_norm, attention.k_norm
        project, joined = projections(attention), joined_heads(attention)
        attend = self.attend_function(mask, core.scale, cache, queries != values)

        def step(x: Tensor, rotary: Rotary | None) -> Tensor:
            if joined is not None and k_norm is None:
                heads = joined(x)
                rotate_in_place(heads[:, :-values], rotary)
                q, both = heads.tensor_split((queries,), 1)
                cache.append_joined(both)
                return attend(q).reshape(x.shape[0], -1)
            q, k, v = project(x)
            if q_norm is not None and k_norm is not None:
                q, k = q_norm(q), k_norm(k)
            both = torch.cat([q, k], 1)
            q, k = (both if rotary is None else rotary(both)).tensor_split((queries,), 1)
            cache.append(k, v)
            return attend(q).reshape(x.shape[0], -1)

        return step

    def attend_function(self, mask: Mask, scale: float, cache: StaticKVCache, shared: bool) -> Rows:
        """A function (q [B, H, 1, P]) -> [B, H, 1, P] of the attention to a cache.

        shared: whether several query heads share those of the cache.
        """
        k, v = cache.k, cache.v
        if FLASH and mask == CAUSAL and (not shared or FLASH_WITH_SHARED_HEADS) and has_flash(k):
            return FlashToUsed(self.used, k, v, scale)
        bias = self.bias_of(mask)
        return lambda q: F.scaled_dot_product_attention(fold_groups(q, k), k, v, bias, scale=scale)


def joined_heads(attention: Attention) -> Rows | None:
    """A function that computes the heads of q, k and v in one tensor [B, H + 2G, 1, P], if they are one product."""
    parts, dim = getattr(attention, "projections", None), attention.head_dim
    if not isinstance(parts, JoinedProjections) or not is_called_plainly(parts):
        return None
    joined = by_rows(parts.joined)
    return lambda x: joined(x).view(x.shape[0], -1, 1, dim)


class FlashToUsed:
    """Attention of one query of each head [B, H, 1, P] to the first `used` [B] keys of each row."""

    def __init__(self, used: Tensor, k: Tensor, v: Tensor, scale: float) -> None:
        batch, _, self.capacity, _ = k.shape
        self.used, self.scale = used, scale
        self.k, self.v = (t.transpose(1, 2).flatten(0, 1) for t in (k, v))  # B * M, G, P: views
        self.starts = torch.arange(batch + 1, dtype=torch.int32, device=k.device)
        self.key_starts = self.starts * self.capacity

    def __call__(self, q: Tensor) -> Tensor:
        rows = self.k, self.v, self.starts, self.key_starts, 1, self.capacity
        return flash_attention(q[:, :, 0], *rows, 0.0, False, False, scale=self.scale, seqused_k=self.used)[0][
            :, :, None
        ]


def flash_attention(*args: Any, **options: Any) -> tuple[Tensor, ...]:
    """torch's flash attention over packed rows, by its only interface that takes the numbers of keys as a tensor."""
    found: tuple[Tensor, ...] = torch.ops.aten._flash_attention_forward(*args, **options)
    return found


def has_flash(k: Tensor) -> bool:
    """Whether torch's flash attention takes these keys."""
    dim = k.shape[-1]
    if not k.is_cuda or k.dtype not in HALF or dim > 256 or dim % 8:
        return False
    return torch.cuda.get_device_capability(k.device) >= (8, 0) and torch.backends.cuda.is_flash_attention_available()


def add_product(linear: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """A function (x, y) -> x + linear(y) of rows, which may write to x."""
    if ADD_IN_PRODUCT and is_called_plainly(linear) and is_plain_linear(linear) and linear.bias is None:
        weight: Any = linear.weight
        return lambda x, y: x.addmm_(y, weight.t())
    product = by_rows(linear)
    return lambda x, y: x + product(y)


def mlp_parts(mlp: nn.Module) -> tuple[Rows, Callable[[Tensor, Tensor], Tensor]]:
    """Two functions of an MLP of rows: its hidden features, and what adds their product to x."""
    if type(mlp) is not MLP or not is_called_plainly(mlp):
        return by_rows(mlp), torch.add
    up: Any = mlp.up
    fused = GELU_IN_PRODUCT and mlp.gate is None and mlp.act is ACTIVATIONS["gelu_tanh"]
    fused = fused and is_called_plainly(up) and is_plain_linear(up) and up.bias is not None
    if fused and FusedActivationLinear.supports(up.weight, "gelu_tanh", "one"):
        return FusedActivationLinear(up.weight, up.bias, "gelu_tanh").forward, add_product(mlp.down)
    return hidden_step(mlp), add_product(mlp.down)


def static_state(state: StackState, positions: Tensor, capacity: int, like: Tensor) -> StackState:
    """The same kinds of caches, with fixed shapes and addresses. Raises NotImplementedError for other kinds."""
    found = StackState()
    for layer in state:
        mixer = layer.mixer
        if isinstance(mixer, KVCache) and type(mixer) in (KVCache, WindowCache):  # all tokens, a window under its mask
            batch, heads, _, dim = mixer.k.shape
            mixer = StaticKVCache(batch, heads, capacity, dim, like, positions)
        elif type(mixer) is not LinearAttentionState:
            raise NotImplementedError(f"a cache of type {type(mixer).__name__}")
        found.append(LayerState(mixer))
    found.is_static = any(isinstance(layer.mixer, StaticKVCache) for layer in found)
    return found
