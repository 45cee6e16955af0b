"""A block is data: `BlockConfig` describes it completely, and builds stacks of it.

A field enters it only when two families need it; what only one family does stays in that family's file.
"""

from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal, Self

from torch import nn

from zoo.nn.attention import Attention
from zoo.nn.block import Block, Order
from zoo.nn.core import CoreSpec
from zoo.nn.mlp import MLP
from zoo.nn.registry import build_mixer, for_layer
from zoo.nn.stack import Stack


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """One block.

    width D; heads query heads, kv_heads key and value heads (None: as many), each of head_dim (None: width / heads);
    mlp_dim: inner width of the MLP (None: 4 * width). bias: of all projections, with qkv_bias and k_bias for those of q,
    k, v and of k alone where they differ. scale: of q . k. attention: see `registry.py`; mixer: what takes the place of
    attention altogether.
    """

    width: int
    heads: int
    kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    act: str = "gelu"
    gated_mlp: bool = False
    norm: Literal["layer", "layer_unbiased", "rms"] = "layer"
    norm_eps: float = 1e-6
    order: Order = "pre"
    bias: bool = True
    qkv_bias: bool | None = None
    k_bias: bool | None = None
    qk_norm: bool = False
    scale: float | None = None
    layer_scale: float | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    causal: bool = False
    attention: Any = "softmax"
    mixer: Any = None

    def __post_init__(self) -> None:
        if self.head_dim is None and self.width % self.heads:
            raise ValueError(
                f"width={self.width} does not divide into heads={self.heads}: choose a divisor, or give head_dim"
            )
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"heads={self.heads} cannot share kv_heads={self.kv_heads} evenly: choose a divisor")

    @classmethod
    def of(cls, config: Any, **others: Any) -> Self:
        """The spec that takes from a family's config the fields that both have; `others` say the rest."""
        shared = {f.name: getattr(config, f.name) for f in fields(cls) if hasattr(config, f.name)}
        return cls(**(shared | others))

    def make_norm(self, width: int | None = None) -> nn.Module:
        if self.norm == "rms":
            return nn.RMSNorm(width or self.width, eps=self.norm_eps)
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
        )

    def attend(
        self, layer: int, depth: int, kind: Any, *, cross: bool = False, memory_width: int | None = None
    ) -> Attention:
        return Attention(
            self.width,
            self.core_spec(layer, depth, cross=cross),
            attention=for_layer(kind, layer, depth),
            memory_width=memory_width,
            bias=self.bias if self.qkv_bias is None else self.qkv_bias,
            k_bias=self.k_bias,
            out_bias=self.bias,
            qk_norm=self.make_norm if self.qk_norm else None,
        )

    def block(self, layer: int, depth: int, *, cross: Any = None, memory_width: int | None = None) -> Block:
        """Layer number `layer` of `depth`; `cross`: the attention kind of its cross-attention, None for none.

        The chance of drop path grows linearly with depth, up to `drop_path` in the last layer.
        """
        if self.mixer is None:
            mixer: nn.Module = self.attend(layer, depth, self.attention)
        else:
            mixer = build_mixer(for_layer(self.mixer, layer, depth), MixerConfig(self, layer, depth))
        return Block(
            mixer,
            MLP(self.width, self.mlp_dim or 4 * self.width, self.act, self.gated_mlp, self.bias),
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
        """`depth` blocks, and the final norm (default: where the order leaves the residual stream unnormed)."""
        make = partial(self.block, depth=depth, cross=cross, memory_width=memory_width)
        final = self.order != "post" if final_norm is None else final_norm
        return Stack((make(layer) for layer in range(depth)), self.make_norm() if final else None)


@dataclass(frozen=True)
class MixerConfig:
    """What a mixer may know about its place; `block` has width, heads, causal and the rest."""

    block: BlockConfig
    layer: int
    depth: int

    @property
    def width(self) -> int:
        return self.block.width

    @property
    def heads(self) -> int:
        return self.block.heads

    @property
    def causal(self) -> bool:
        return self.block.causal


class Mixer(nn.Module):
    """What mixes tokens without attention weights. Subclass it: `__init__(self, spec: MixerConfig)` and `forward`.

    forward(x [B, N, D], context, state) -> [B, N, D]. Rows come without padding (they are handed over one length at a
    time); `context.mask` says whether the future is hidden. One that decodes has `new_state(batch, capacity, like)`.
    """

    def __init__(self, spec: MixerConfig) -> None:
        super().__init__()
        self.spec = spec
