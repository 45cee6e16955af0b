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

from zoo.inference.generation.one_token import (
    embedding_and_context,
    is_plain_block,
    plain_core,
    projections,
    stack_of,
)
from zoo.inference.generation.row_functions import Rows, by_rows, hidden_step
from zoo.inference.generation.static_state import Carried, StaticMemory, constant_caches, static_state, tensors_of
from zoo.inference.optimized_parts import JoinedProjections, is_called_plainly
from zoo.inference.packed_linear import FusedActivationLinear
from zoo.models.base import Model
from zoo.models.bridge.model import Bridge
from zoo.nn.attention import Attention, is_plain_linear
from zoo.nn.block import Block
from zoo.nn.context import Context
from zoo.nn.kernels import HALF
from zoo.nn.kv_cache import (
    EncoderDecoderState,
    KVCache,
    LayerState,
    StackState,
    StaticKVCache,
    StaticMaskView,
    sees_itself,
)
from zoo.nn.masks import CAUSAL, Mask, MaskView, as_mask
from zoo.nn.mlp import ACTIVATIONS, MLP
from zoo.nn.position_biases import BiasView
from zoo.nn.rotary import Rotary
from zoo.nn.sdpa import attend_to_all, fold_groups
from zoo.nn.softmax_attention import SoftmaxAttention

# Which kernels a step consists of; each kernel less saves microseconds of every layer.
FLASH = True  # half precision on a GPU: attention reads only the tokens that are there, without a mask
FLASH_WITH_SHARED_HEADS = False  # also where queries share keys, which takes flash attention more kernels
GELU_IN_PRODUCT = True  # on a GPU: bias and tanh GELU are a part of the product before
ADD_IN_PRODUCT = True  # products without a bias are added to the residual stream by the same kernel

Attend = Callable[[Tensor, Context], Tensor]
Add = Callable[[Tensor, Tensor], Tensor]  # a residual x [B, D] and what is added to it, or what its product is of


def can_decode_statically(model: Model) -> bool:
    """Whether all that a step of the model runs is known, so that it may be recorded once and replayed."""
    if isinstance(model, Bridge) or stack_of(model) is None:
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

    capacity: the most tokens of a row. memory: what a decoder reads of its encoder.
    """

    def __init__(
        self,
        model: Any,
        ids: Tensor,
        positions: Tensor,
        scores: Tensor,
        capacity: int,
        memory: StaticMemory | None = None,
    ) -> None:
        stack = stack_of(model)
        assert stack is not None
        self.model, self.ids, self.positions, self.scores = model, ids, positions, scores
        self.capacity, self.memory = capacity, memory
        self.like = model.tokens.word.weight
        self.state = static_state(stack.new_state(len(ids), 1, self.like), positions, capacity, self.like)
        self.carried = [Carried(cache) for cache in constant_caches(self.state)]
        self.embed, context_of = embedding_and_context(model)
        self.context = context_of(torch.arange(capacity, device=ids.device))
        if self.context.memory is not None:
            raise NotImplementedError("a decoder with an encoder")
        tables = self.context.rotary if isinstance(self.context.rotary, tuple) else (self.context.rotary,)
        self.turns = {table: SignedRotary.of(table) for table in tables if table is not None}
        self.keys = torch.arange(capacity, device=ids.device)
        self.used = torch.zeros(len(ids), dtype=torch.int32, device=ids.device)  # tokens of each row in this step
        self.masks: dict[Mask, tuple[StaticMaskView, Tensor]] = {}  # of each pattern, with its values as a bias
        self.zero, self.lowest = self.like.new_tensor(0.0), self.like.new_tensor(-torch.inf)
        self.blocks = [self.static_block(block, i) for i, block in enumerate(stack)]
        self.norm = (lambda x: x) if stack.norm is None else by_rows(stack.norm)

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
        for carried, cache in zip(self.carried, constant_caches(state), strict=True):
            carried.load(tensors_of(cache))
        if self.memory is not None:
            assert isinstance(state, EncoderDecoderState)
            self.memory.load(state)

    def load_static(self, other: "StaticStep") -> None:
        """Continue from a step of less capacity with the same positions, and the same memory of an encoder."""
        for own, layer in zip(self.state, other.state, strict=True):
            if isinstance(own.mixer, StaticKVCache) and isinstance(layer.mixer, StaticKVCache):
                own.mixer.keys_and_values.zero_()
                own.mixer.keys_and_values[:, :, : other.capacity] = layer.mixer.keys_and_values
        for carried, before in zip(self.carried, other.carried, strict=True):
            carried.load(before.own)

    def reorder(self, index: Tensor) -> None:
        """Row i continues from row index[i], which reads the same states of an encoder."""
        for layer in self.state:
            if isinstance(layer.mixer, StaticKVCache):
                layer.mixer.reorder(index)
        for carried in self.carried:
            carried.reorder(index)
        self.positions.copy_(self.positions.index_select(0, index))

    def __call__(self) -> None:
        positions = self.positions
        x = self.embed(self.ids, positions)[:, 0]
        context = self.context_at(positions)
        torch.add(positions[:, 0], 1, out=self.used)
        shown = self.bias_at(positions) if self.masks else self.zero
        for view, bias in self.masks.values():
            seen = view.inner == CAUSAL  # without the kernels of index functions
            allowed = (self.keys <= positions)[:, None, None] if seen else view.dense(1, self.capacity, bias.device)
            torch.where(allowed, shown, self.lowest, out=bias)
        for i, block in enumerate(self.blocks):
            x = block(x, context.layer(i))
        self.scores.copy_(self.model.head(self.norm(x)))
        for carried in self.carried:
            carried.keep()
        positions.add_(1)

    def bias_at(self, positions: Tensor) -> Tensor:
        """The position bias of one token of each row to all places [B or 1, H, 1, M]; 0 without one."""
        if self.context.bias is None:
            return self.zero
        bias = BiasView(self.context.bias, positions, None, None)
        return bias.dense(1, self.capacity, positions.device).to(self.like.dtype)

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
        """The tensor that holds the values of a mask in each step, with the position bias: -inf where it hides
        [B, 1 or H, 1, M]."""
        if mask not in self.masks:
            view, device = StaticMaskView.of(mask, self.positions), self.positions.device
            shapes = view.dense(1, self.capacity, device).shape, self.bias_at(self.positions).shape
            self.masks[mask] = view, self.like.new_zeros(torch.broadcast_shapes(*shapes))
        return self.masks[mask][1]

    def static_block(self, block: Block, number: int) -> Callable[[Tensor, Context], Tensor]:
        """A function (x [B, D], context) -> [B, D] of one block. Raises NotImplementedError for cross-attention that
        has to be called as a module."""
        layer = self.state[number]
        plain = is_plain_block(block) and block.order != "sandwich" and not block.shifts_tokens
        attend = self.static_attention(block.mixer, layer.mixer) if plain else None
        if block.cross is None and attend is None:
            return lambda x, context: block(x[:, None], context, layer)[:, 0]
        cross = None if block.cross is None else self.static_cross(block.cross, number)
        if not plain or (cross is None) != (block.cross is None):
            raise NotImplementedError(f"a {type(block.mixer).__name__} block with cross-attention of another kind")
        add_attention: Add = torch.add
        if attend is None:  # other kinds than softmax, which compute their last product themselves
            attend = whole_mixer(block.mixer, layer)
        else:
            add_attention = add_product(block.mixer.out)  # type: ignore[arg-type]
        norm1, norm2 = by_rows(block.norm1), by_rows(block.norm2)  # type: ignore[arg-type]
        hidden, add_hidden = mlp_parts(block.mlp)  # type: ignore[arg-type]
        cross_norm: Rows = (lambda x: x) if block.cross_norm is None else by_rows(block.cross_norm)

        def pre_norm(x: Tensor, context: Context) -> Tensor:
            x = add_attention(x, attend(norm1(x), context))
            if cross is not None:
                x = cross(x, cross_norm(x))
            return add_hidden(x, hidden(norm2(x)))

        def post_norm(x: Tensor, context: Context) -> Tensor:
            x = norm1(add_attention(x, attend(x, context)))
            if cross is not None:
                x = cross_norm(cross(x, x))
            return norm2(add_hidden(x, hidden(x)))

        return pre_norm if block.order == "pre" else post_norm

    def static_cross(self, attention: nn.Module, number: int) -> Add | None:
        """A function (x, h) -> x + softmax attention of h to the encoder's states, both [B, D]; None for other
        attention."""
        core, memory = plain_core(attention), self.memory
        if type(core) is not SoftmaxAttention or core.spec.softcap is not None or memory is None:
            return None
        parts: Any = attention
        if "q" not in parts._modules:
            return None
        project, add, norm, scale = by_rows(parts.q), add_product(parts.out), parts.q_norm, core.scale
        heads, dim, (k, v) = core.spec.heads, parts.head_dim, memory.layers[number]

        def step(x: Tensor, h: Tensor) -> Tensor:
            q = project(h).view(len(k), memory.copies, heads, dim).transpose(1, 2)  # R H c P
            y = attend_to_all(q if norm is None else norm(q), k, v, scale, memory.bias)
            return add(x, y.transpose(1, 2).reshape(len(x), -1))

        return step

    def static_attention(self, attention: nn.Module, cache: Any) -> Attend | None:
        """Softmax attention of one token of each row to the buffers of a static cache, before its last product:
        x [B, D] -> [B, H * P]."""
        core = plain_core(attention)
        if core is None or core.spec.softcap is not None or not isinstance(cache, StaticKVCache):
            return None
        assert isinstance(attention, Attention)
        mask = as_mask(self.context.mask) & core.pattern
        biased = self.context.bias is not None
        if not sees_itself(mask) or (biased and attention.kept_heads is not None):
            return None  # rows without any key are set to zero there
        queries, values = core.spec.heads, core.spec.kv_heads
        q_norm, k_norm = attention.q_norm, attention.k_norm
        project, joined = projections(attention), joined_heads(attention)
        attend = self.attend_function(mask, core.scale, cache, queries != values)

        def step(x: Tensor, context: Context) -> Tensor:
            rotary: Any = context.rotary
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
        unbiased = self.context.bias is None
        if FLASH and unbiased and mask == CAUSAL and (not shared or FLASH_WITH_SHARED_HEADS) and has_flash(k):
            return FlashToUsed(self.used, k, v, scale)
        bias = self.bias_of(mask)
        return lambda q: F.scaled_dot_product_attention(fold_groups(q, k), k, v, bias, scale=scale)


def whole_mixer(mixer: nn.Module, layer: LayerState) -> Attend:
    """A mixer with its last product, called as a module: x [B, D] -> [B, D]."""
    return lambda x, context: mixer(x[:, None], context, layer)[:, 0]


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


def add_product(linear: nn.Module) -> Add:
    """A function (x, y) -> x + linear(y) of rows, which may write to x."""
    if ADD_IN_PRODUCT and is_called_plainly(linear) and is_plain_linear(linear) and linear.bias is None:
        weight: Any = linear.weight
        return lambda x, y: x.addmm_(y, weight.t())
    product = by_rows(linear)
    return lambda x, y: x + product(y)


def mlp_parts(mlp: nn.Module) -> tuple[Rows, Add]:
    """Two functions of an MLP of rows: its hidden features, and what adds their product to x."""
    if type(mlp) is not MLP or not is_called_plainly(mlp):
        return by_rows(mlp), torch.add
    up: Any = mlp.up
    fused = GELU_IN_PRODUCT and mlp.gate is None and mlp.act is ACTIVATIONS["gelu_tanh"]
    fused = fused and is_called_plainly(up) and is_plain_linear(up) and up.bias is not None
    if fused and FusedActivationLinear.supports(up.weight, "gelu_tanh", "one"):
        return FusedActivationLinear(up.weight, up.bias, "gelu_tanh").forward, add_product(mlp.down)
    return hidden_step(mlp), add_product(mlp.down)
