"""The attention module: projections around a core, for self- and cross-attention, MHA, MQA and GQA, with a cache.

All models use it. Its parameters are always named `q`, `k`, `v`, `out` (and `q_norm`, `k_norm`, `gate`), so checkpoint
mappings, LoRA, sharding plans and weight-decay groups rely on these names.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn import kernels
from zoo.nn.context import Context
from zoo.nn.core import Core, CoreSpec
from zoo.nn.gated_core import GatedCore
from zoo.nn.kv_cache import LayerState
from zoo.nn.masks import CAUSAL, Mask, MaskView, Window
from zoo.nn.padding import Groups
from zoo.nn.position_biases import Bias, BiasOfHeads
from zoo.nn.registry import build_core
from zoo.nn.rotary import Rotary
from zoo.nn.softmax_attention import SoftmaxAttention

# Up to this width, and from this many tokens on, one fused product for q, k and v is faster than three, although it
# concatenates their weights first.
FUSED_QKV_MAX_WIDTH, FUSED_QKV_MIN_TOKENS = 384, 64


class Attention(nn.Module):
    """`out(core(q(x), k(memory), v(memory)))`, with memory = x in self-attention.

    bias: whether q, k and v have a bias; k_bias and out_bias override it for k and for the output projection. qk_norm:
    builds the norms over the head dimension that are applied to q and k before the rotary embedding.
    """

    packs = True  # handles packed rows (`Context.groups`) itself
    reads_bias = True
    divides_heads = True  # whether processes can compute some of its heads each (tensor parallelism)
    kept_heads: tuple[int, ...] | None = None  # where heads were removed: the numbers that the others had before

    def __init__(
        self,
        width: int,
        spec: CoreSpec,
        *,
        attention: Any = "softmax",
        memory_width: int | None = None,
        bias: bool = True,
        k_bias: bool | None = None,
        out_bias: bool | None = None,
        qk_norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        heads, groups, dim = spec.heads, spec.kv_heads, spec.head_dim
        self.head_dim = dim
        self.q = nn.Linear(width, heads * dim, bias)
        self.k = nn.Linear(memory_width or width, groups * dim, bias if k_bias is None else k_bias)
        self.v = nn.Linear(memory_width or width, groups * dim, bias)
        self.q_norm = None if qk_norm is None else qk_norm(dim)
        self.k_norm = None if qk_norm is None else qk_norm(dim)
        self.core = build_core(attention, spec)
        self.gate = None if not isinstance(self.core, GatedCore) else build_gate(width, self.core)
        self.out = nn.Linear(heads * dim, width, bias if out_bias is None else out_bias)

    def forward(
        self, x: Tensor, context: Context, state: LayerState | None = None, memory: Tensor | None = None
    ) -> Tensor:
        """x [B, N, D] -> [B, N, D]. With memory [B, M, D'] this is cross-attention."""
        if self.kept_heads is not None and context.bias is not None:
            context = replace(context, bias=BiasOfHeads.of(context.bias, self.kept_heads))
        if memory is not None:
            y = self.cross(x, memory, context, state)
        else:
            q, k, v = self.project_heads(x)
            if self.q_norm is not None and self.k_norm is not None:
                q, k = self.q_norm(q), self.k_norm(k)
            if isinstance(context.rotary, Rotary):
                q, k = context.rotary(q), context.rotary(k)
            if context.edit_qkv is not None:
                q, k, v = context.edit_qkv(q, k, v, False)
            parts = (q, k, v) if self.gate is None else (q, k, v, self.gates(x))
            if context.read_maps is not None:
                context.read_maps(self.core, self.core.maps(q, k, context.mask, context.bias, *parts[3:]))
            if state is not None:
                y = self.core.decode(q, k, v, state.mixer, context.mask, context.bias, *parts[3:])
            elif context.groups is not None and context.groups.starts is None:
                core = self.core if self.gate is None else self.call_core
                y = run_grouped(core, context.groups, parts, context.mask, context.bias)
            elif context.groups is not None:
                y = run_packed(self.core, context.groups, *parts, mask=context.mask, bias=context.bias)
            else:
                y = self.core(q, k, v, context.mask, context.bias, *parts[3:])
        rows, _, tokens, _ = y.shape
        return self.out((y if tokens == 1 else y.transpose(1, 2)).reshape(rows, tokens, -1))  # B H N P -> B N D

    def gates(self, x: Tensor) -> Tensor:
        """The gates of a core that has them [B, G, N, W], from the input of its tokens."""
        assert self.gate is not None
        return self.gate(x).unflatten(-1, (self.core.spec.kv_heads, -1)).transpose(1, 2)

    def call_core(self, *parts: Any) -> Tensor:
        """The core, for the parts q, k, v, gates if it has them, mask and bias."""
        q, k, v, *gates, mask, bias = parts
        y: Tensor = self.core(q, k, v, mask, bias, *gates)
        return y

    def cross(self, x: Tensor, memory: Tensor, context: Context, state: LayerState | None) -> Tensor:
        """Attend to `memory`. While decoding, its keys and values are projected once and cached in `state`.

        x may have several rows in a row for each one of memory: they share its keys and values.
        """
        q = self.split(self.q(x))
        if self.q_norm is not None:
            q = self.q_norm(q)
        if state is not None and state.memory is not None:
            k, v = state.memory
        else:
            k, v = self.split(self.k(memory)), self.split(self.v(memory))
            if self.k_norm is not None:
                k = self.k_norm(k)
            if state is not None:  # each token reads all of them, which takes half the time where a head is contiguous
                state.memory = k, v = k.contiguous(), v.contiguous()
        if context.edit_qkv is not None:
            q, k, v = context.edit_qkv(q, k, v, True)
        rows, _, tokens, _ = q.shape
        copies = rows // k.shape[0]
        if copies > 1:
            q = q.unflatten(0, (k.shape[0], copies)).transpose(1, 2).flatten(2, 3)  # B H cN P
        y = self.core(q, k, v, context.memory_mask, None)
        return y if copies <= 1 else y.unflatten(2, (copies, tokens)).transpose(1, 2).flatten(0, 1)

    def project_heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Projections of x: q [B, H, N, P], k and v [B, G, N, P], by one fused product where that is faster."""
        rows, tokens, width = x.shape
        a, b, c = self.q, self.k, self.v
        # not in a graph, which is for any rows and tokens; `is_exporting` would be one more call in each layer
        fused = width <= FUSED_QKV_MAX_WIDTH and not torch.compiler._is_exporting_flag
        fused = fused and rows * tokens >= FUSED_QKV_MIN_TOKENS
        fused = fused and all(map(is_plain_linear, (a, b, c)))
        if fused and (a.bias is None) == (b.bias is None) == (c.bias is None):
            bias = None if a.bias is None else torch.cat([a.bias, b.bias, c.bias])
            y = F.linear(x, torch.cat([a.weight, b.weight, c.weight]), bias)
            q, k, v = y.split([a.out_features, b.out_features, c.out_features], -1)
        else:
            q, k, v = a(x), b(x), c(x)
        if tokens == 1:  # no transpositions: to decode a small model takes little more than its calls of torch
            shape = (rows, -1, 1, self.head_dim)
            return q.view(shape), k.view(shape), v.view(shape)
        size = self.head_dim
        q = q.view(rows, tokens, q.shape[2] // size, size)  # not -1, which a graph knows from all other sizes only
        k, v = k.view(rows, tokens, k.shape[2] // size, size), v.view(rows, tokens, v.shape[2] // size, size)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # B N HP -> B H N P

    def split(self, x: Tensor) -> Tensor:
        rows, tokens, width = x.shape
        return x.view(rows, tokens, width // self.head_dim, self.head_dim).transpose(1, 2)  # B N HP -> B H N P


def is_plain_linear(linear: nn.Module, *, sharded: bool = False) -> bool:
    """Whether calling it only multiplies by its weight: no adapter, hook, parametrization, sharding or own forward.

    sharded: its weight may be one that FSDP2 gathers before it is called.
    """
    cls = type(linear)
    own = cls.__module__.startswith("zoo.") and cls.forward is nn.Linear.forward  # only other initial values
    if not (cls is nn.Linear or own) or "forward" in vars(linear) or "parametrizations" in linear._modules:
        return False
    if not sharded and type(linear.weight) is not nn.Parameter:
        return False
    hooks = linear._forward_hooks or linear._forward_pre_hooks or linear._backward_hooks or linear._backward_pre_hooks
    return not hooks and (sharded or type(linear.weight.data) is Tensor)


def build_gate(width: int, core: GatedCore) -> nn.Module:
    """The projection of a token's input to the gates of a core; the core has its bias."""
    gates = core.spec.kv_heads * core.gate_width
    if core.gate_rank is None:
        return nn.Linear(width, gates, bias=False)
    return nn.Sequential(nn.Linear(width, core.gate_rank, bias=False), nn.Linear(core.gate_rank, gates, bias=False))


def run_packed(
    core: Core,
    groups: Groups,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *gates: Tensor,
    mask: Mask | None,
    bias: Bias | None,
) -> Tensor:
    """Apply a core to packed tokens on a GPU: q [1, H, T, P], k, v and gates [1, G, T, P] -> [1, H, T, P].

    In one call: on the packed tokens, or on rows that are padded for it. Layers of the same kind share the choice and
    its mask.
    """
    key = type(core), core.pattern, core.dropout, core.spec.softcap, q.shape, k.shape, q.dtype, q.requires_grad
    chosen = groups.choices.get(key)
    if chosen is None:
        chosen = groups.choices[key] = choose_packed(core, groups, q, k, mask, bias)
    choice, mask = chosen
    if choice.kernel == "varlen":
        return core(q, k, v, mask, None)
    return groups.unpad(core(groups.pad(q), groups.pad(k), groups.pad(v), mask, bias, *map(groups.pad, gates)))


def choose_packed(
    core: Core, groups: Groups, q: Tensor, k: Tensor, mask: Mask | None, bias: Bias | None
) -> tuple[kernels.Choice, Mask]:
    """How a core computes packed tokens on a GPU, and its mask: of the packed tokens, or of padded rows."""
    assert isinstance(mask, MaskView)
    call = kernels.AttentionCall(
        *(q.dtype, q.shape[1], k.shape[1], q.shape[3], groups.longest, groups.longest, mask & core.pattern),
        bias="none" if bias is None else "fixed",
        dropout=core.dropout,
        grad=q.requires_grad and torch.is_grad_enabled(),
        ragged=True,
        softcap=core.spec.softcap,
    )
    record = kernels.capabilities(q.device)
    choice = kernels.choose(record, call)
    if type(core).forward is not SoftmaxAttention.forward:
        choice = kernels.Choice("padded", f"no varlen: {type(core).__name__} computes its own attention")
    elif q.dtype in kernels.HALF and (limit := kernels.varlen_limit(record, call)):
        kernels.warn_once(
            f"the rows of a batch are padded for attention, as the flash kernel cannot take them: {limit}"
        )
    if choice.kernel == "varlen":
        return choice, MaskView(mask.inner, rows=groups)  # causal or a window: of differences between positions
    hides_later = any(p == CAUSAL or (isinstance(p, Window) and not p.right) for p in call.mask.parts())
    return choice, mask if hides_later else MaskView(mask.inner, keep=groups.keep)  # padding comes last


def run_grouped(core: Callable[..., Tensor], groups: Groups, parts: Sequence[Tensor], *shared: Any) -> Tensor:
    """Apply `core(*parts, *shared)` to each group of equally long rows of packed tokens: parts [1, H, T, P], output
    [1, H, T, P].

    The core sees neither padding nor other rows, so a packed batch gives the same outputs as each row alone.
    """
    outputs, start = [], 0
    for rows, length in groups.sizes:
        stop = start + rows * length
        rectangles = []
        for part in parts:
            rectangles.append(part[0, :, start:stop].unflatten(1, (rows, length)).transpose(0, 1))  # b H n P
        outputs.append(core(*rectangles, *shared).transpose(0, 1).flatten(1, 2))  # H bn P
        start = stop
    return torch.cat(outputs, 1)[None]
