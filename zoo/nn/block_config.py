"""The configuration of a transformer block, from which blocks and stacks are built.

A field is added here only when at least two model families need it; otherwise it belongs to the family's own file.
"""

from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal, Self

from torch import nn

from zoo.nn.attention import Attention
from zoo.nn.block import Block, Order
from zoo.nn.core import CoreSpec, check_positive
from zoo.nn.mixers.base import MixerConfig
from zoo.nn.mlp import MLP
from zoo.nn.registry import build_core, build_mixer, for_layer
from zoo.nn.rms_norm import UnitOffsetRMSNorm
from zoo.nn.stack import Stack


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """Configuration of one transformer block.

    width: D, the size of the hidden states.
    heads, kv_heads, head_dim: number of query heads, of key and value heads (None: heads), and their size (None:
        width / heads).
    mlp_dim: hidden size of the MLP (None: 4 * width; 0: blocks without an MLP).
    bias: whether linear layers have a bias; qkv_bias overrides it for q, k and v, and k_bias for k.
    scale, softcap: factor of q . k (None: head_dim ** -0.5), and a smooth bound of the scores (None: no bound).
    attention: an attention kind, see `registry.py`.
    mixer: a module that replaces attention, see `Mixer`; in a list over layers, "attention" keeps it.
    The other fields are described at `Block`, `MLP` and `Core`.
    """

    width: int
    heads: int
    kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    act: str = "gelu"
    gated_mlp: bool = False
    norm: Literal["layer", "layer_unbiased", "rms", "rms_unit_offset"] = "layer"
    norm_eps: float = 1e-6
    order: Order = "pre"
    bias: bool = True
    qkv_bias: bool | None = None
    k_bias: bool | None = None
    qk_norm: bool = False
    scale: float | None = None
    softcap: float | None = None
    layer_scale: float | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    causal: bool = False
    attention: Any = "softmax"
    mixer: Any = None

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("width", "heads", "kv_heads", "head_dim")}
        check_positive(**{name: size for name, size in sizes.items() if size is not None})
        if self.head_dim is None and self.width % self.heads:
            raise ValueError(
                f"width={self.width} is not divisible by heads={self.heads}: choose a divisor, or set head_dim"
            )
        self.core_spec(0, 1)  # checks that the heads can be shared

    @classmethod
    def of(cls, config: Any, **overrides: Any) -> Self:
        """Copy the fields that a family's config has in common with this class; `overrides` set the others."""
        shared = {f.name: getattr(config, f.name) for f in fields(cls) if hasattr(config, f.name)}
        return cls(**(shared | overrides))

    def make_norm(self, width: int | None = None) -> nn.Module:
        if self.norm == "rms":
            return nn.RMSNorm(width or self.width, eps=self.norm_eps)
        if self.norm == "rms_unit_offset":
            return UnitOffsetRMSNorm(width or self.width, eps=self.norm_eps)
        return nn.LayerNorm(width or self.width, eps=self.norm_eps, bias=self.norm == "layer")

    def core_spec(self, layer: int, depth: int, *, cross: bool = False) -> CoreSpec:
        return CoreSpec(
            heads=self.heads,
            kv_heads=self.kv_heads or self.heads,
            head_dim=self.head_dim or self.width // self.heads,
            layer=layer,
            depth=depth,
            causal=self.causal and not cross,
            dropout=self.attention_dropout,
            scale=self.scale,
            softcap=None if cross else self.softcap,
        )

    def attend(
        self, layer: int, depth: int, kind: Any, *, cross: bool = False, memory_width: int | None = None
    ) -> Attention:
        attention = Attention(
            self.width,
            self.core_spec(layer, depth, cross=cross),
            attention=for_layer(kind, layer, depth),
            memory_width=memory_width,
            bias=self.bias if self.qkv_bias is None else self.qkv_bias,
            k_bias=self.k_bias,
            out_bias=self.bias,
            qk_norm=self.make_norm if self.qk_norm else None,
        )
        if cross and attention.gate is not None:
            raise ValueError(
                f"cross_attention={attention.core.kind!r}: the gates of this kind belong to the tokens of one "
                "sequence, so it is for self-attention only; use cross_attention='softmax', 'linear' or another kind"
            )
        return attention

    def block(self, layer: int, depth: int, *, cross: Any = None, memory_width: int | None = None) -> Block:
        """Build layer number `layer` of `depth`. cross: the kind of its cross-attention, None for no cross-attention.

        The drop-path rate grows linearly from 0 in the first layer to `drop_path` in the last.
        """
        kind, mlp_dim = for_layer(self.mixer, layer, depth), 4 * self.width if self.mlp_dim is None else self.mlp_dim
        if kind is None or kind == "attention":
            mixer: nn.Module = self.attend(layer, depth, self.attention)
        else:
            # the attention of this layer is not used, but checked
            build_core(for_layer(self.attention, layer, depth), self.core_spec(layer, depth))
            mixer = build_mixer(kind, MixerConfig(self, layer, depth))
        return Block(
            mixer,
            MLP(self.width, mlp_dim, self.act, self.gated_mlp, self.bias) if mlp_dim else None,
            self.make_norm,
            width=self.width,
            cross=None if cross is None else self.attend(layer, depth, cross, cross=True, memory_width=memory_width),
            order=self.order,
            layer_scale=self.layer_scale,
            dropout=self.dropout,
            drop_path=self.drop_path * layer / max(depth - 1, 1),
        )

    def stack(
        self, depth: int, *, cross: Any = None, memory_width: int | None = None, final_norm: bool | None = None
    ) -> Stack:
        """Build a stack of `depth` blocks. final_norm: whether a norm follows the last (default: unless post-norm)."""
        make = partial(self.block, depth=depth, cross=cross, memory_width=memory_width)
        final = self.order != "post" if final_norm is None else final_norm
        return Stack((make(layer) for layer in range(depth)), self.make_norm() if final else None)
