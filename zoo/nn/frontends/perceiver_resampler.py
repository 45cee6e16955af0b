"""The perceiver resampler: any number of features of an image become a fixed number of tokens.

Learned queries attend to the features, as in the Perceiver (Jaegle et al. 2021), and to themselves (Flamingo, Alayrac
et al. 2022, figure 5 and appendix A.1.1).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.attention import Attention
from zoo.nn.block import Block
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.core import check_positive
from zoo.nn.init import Initializer, normal_
from zoo.nn.kv_cache import LayerState
from zoo.nn.masks import NO_MASK, PaddingMask
from zoo.nn.mlp import MLP
from zoo.nn.registry import for_layer
from zoo.nn.stack import Stack


class PerceiverAttention(Attention):
    """A mixer: attention of the latents to the features, which it normalizes by `memory_norm`, and to themselves."""

    def __init__(self, *args: Any, memory_norm: nn.Module, **options: Any) -> None:
        super().__init__(*args, **options)
        self.memory_norm = memory_norm

    def forward(
        self, x: Tensor, context: Context, state: LayerState | None = None, memory: Tensor | None = None
    ) -> Tensor:
        """x [B, L, D], the normalized latents, and context.memory [B, M, D] -> [B, L, D]."""
        assert context.memory is not None
        return super().forward(x, context, None, torch.cat([self.memory_norm(context.memory), x], 1))


class PerceiverResampler(nn.Module):
    """features [I, M, D] -> [I, L, D], or those of frames [I, T, M, D] -> [I, T, L, D], each frame by itself.

    latents: L, the number of tokens. depth: of blocks. act: the activation of the MLPs. frames: number of learned
    position embeddings of frames (0: none are added). attention: a kind without a pattern.
    """

    def __init__(
        self,
        width: int,
        *,
        latents: int = 64,
        depth: int = 6,
        heads: int = 8,
        head_dim: int | None = 64,
        mlp_dim: int | None = None,
        act: str = "gelu",
        qk_norm: bool = False,
        frames: int = 0,
        attention: Any = "softmax",
    ) -> None:
        super().__init__()
        check_positive(latents=latents, depth=depth)
        spec = BlockConfig(
            width=width, heads=heads, head_dim=head_dim, mlp_dim=mlp_dim, act=act, norm_eps=1e-5, bias=False,
            qk_norm=qk_norm,
        )  # fmt: skip
        self.latents = nn.Parameter(torch.empty(latents, width))
        self.frames = nn.Parameter(torch.empty(frames, width)) if frames else None
        self.blocks = Stack((make_block(spec, layer, depth, attention) for layer in range(depth)), spec.make_norm())

    def initialize(self, generator_for: Initializer) -> None:
        normal_(self.latents, 1.0, generator_for("latents"))
        if self.frames is not None:
            normal_(self.frames, 1.0, generator_for("frames"))

    @property
    def num_tokens(self) -> int:
        """L, the number of tokens of an image."""
        return len(self.latents)

    def forward(self, features: Tensor, keep: Tensor | None = None) -> Tensor:
        """keep [I, M]: True at real features, None for all."""
        width = self.latents.shape[1]
        if features.ndim not in (3, 4) or features.shape[-1] != width:
            raise ValueError(
                f"expected features [I, M, {width}] of images, or [I, T, M, {width}] of frames, got "
                f"{tuple(features.shape)}: the resampler has the width of the features"
            )
        if self.frames is not None:
            count = features.shape[1] if features.ndim == 4 else 1
            if count > len(self.frames):
                raise ValueError(
                    f"got {count} frames, but the resampler has position embeddings for {len(self.frames)}: pass fewer"
                )
            features = features + (self.frames[:count, None] if features.ndim == 4 else self.frames[0])
        rows = features.flatten(0, -3)
        latents = self.latents.to(rows.dtype).expand(rows.shape[0], -1, -1)
        mask = None if keep is None else PaddingMask(F.pad(keep.flatten(0, -2), (0, self.num_tokens), value=True))
        y = self.blocks(latents, Context(memory=rows, memory_mask=mask))
        assert isinstance(y, Tensor)
        return y.unflatten(0, features.shape[:-2])


def make_block(spec: BlockConfig, layer: int, depth: int, attention: Any) -> Block:
    """One block of a resampler."""
    mixer = PerceiverAttention(
        spec.width,
        spec.core_spec(layer, depth),
        attention=for_layer(attention, layer, depth),
        bias=False,
        qk_norm=spec.make_norm if spec.qk_norm else None,
        memory_norm=spec.make_norm(),
    )
    if mixer.gate is not None:
        raise ValueError(
            f"attention={attention!r}: the gates of this kind belong to the tokens of one sequence; use 'softmax', "
            "'linear' or another kind"
        )
    if mixer.core.pattern != NO_MASK:
        raise ValueError(
            f"attention={attention!r}: its pattern ({mixer.core.pattern}) is of distances within one sequence; use "
            "'softmax', 'linear' or another kind without one"
        )
    mlp = MLP(spec.width, 4 * spec.width if spec.mlp_dim is None else spec.mlp_dim, spec.act, bias=False)
    return Block(mixer, mlp, spec.make_norm, width=spec.width)
