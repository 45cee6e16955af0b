"""The transformer block: a mixer, optional cross-attention and usually an MLP, each in a residual branch."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.attention import run_grouped
from zoo.nn.context import Context
from zoo.nn.init import Initializer
from zoo.nn.kv_cache import LayerState, RecurrentState
from zoo.nn.masks import CAUSAL, MaskView
from zoo.nn.padding import Groups, places_real_first

Order = Literal["pre", "post", "sandwich", "parallel"]
NO_CONTEXT = Context()


class LayerScale(nn.Module):
    """LayerScale: a learned factor per channel (Touvron et al. 2021, CaiT)."""

    def __init__(self, width: int, value: float) -> None:
        super().__init__()
        self.value = value
        self.gamma = nn.Parameter(torch.empty(width))

    def initialize(self, generator_for: Initializer) -> None:
        nn.init.constant_(self.gamma, self.value)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """One transformer layer.

    order: position of the norms. "pre": x + f(norm(x)) (ViT, GPT, LLaMA). "post": norm(x + f(x)) (Vaswani et al. 2017,
        BERT). "sandwich": x + norm(f(norm(x))) (Ding et al. 2021, Gemma 2). "parallel": x + mixer(norm(x)) +
        mlp(norm(x)), with one shared norm (GPT-J, ViT-22B).
    layer_scale: initial value of LayerScale on the mixer and MLP branches; None for no LayerScale.
    dropout: on the output of each branch.
    drop_path: probability that a sample skips a branch in training (stochastic depth, Huang et al. 2016).
    """

    def __init__(
        self,
        mixer: nn.Module,
        mlp: nn.Module | None,
        norm: Callable[[], nn.Module],
        *,
        width: int,
        cross: nn.Module | None = None,
        order: Order = "pre",
        layer_scale: float | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.order, self.dropout, self.drop_path = order, dropout, drop_path
        self.norm1, self.mixer = norm(), mixer
        self.scale1: nn.Module | None = None if layer_scale is None else LayerScale(width, layer_scale)
        self.cross_norm = None if cross is None else norm()
        self.cross = cross
        self.norm2 = None if order == "parallel" or mlp is None else norm()
        self.mlp = mlp
        self.shifts_tokens = getattr(mlp, "shifts_tokens", False)  # it reads the token before, like RWKV's
        self.scale2: nn.Module | None = None
        if layer_scale is not None and mlp is not None:
            self.scale2 = LayerScale(width, layer_scale)
        sandwich = order == "sandwich"
        self.post_norm1 = norm() if sandwich else None
        self.post_norm2 = norm() if sandwich and mlp is not None else None
        if order in ("parallel", "sandwich") and cross is not None:
            raise ValueError(f"order={order!r} does not support cross-attention; use order='pre' or order='post'")

    def forward(self, x: Tensor, context: Context = NO_CONTEXT, state: LayerState | None = None) -> Tensor:
        """x [B, N, D] -> [B, N, D]."""
        pre, groups = self.order != "post", context.groups
        h = self.norm1(x) if pre else x
        y = self.mixer(h, context, state) if getattr(self.mixer, "packs", False) else self.mix_rows(h, context, state)
        if self.post_norm1 is not None:
            y = self.post_norm1(y)
        if self.training or self.scale1 is not None:
            y = self.branch(y, self.scale1, groups)
        x = x + y if pre else self.norm1(x + y)
        if self.cross is not None and self.cross_norm is not None:
            y = self.cross(self.cross_norm(x) if pre else x, context, state, context.memory)
            x = x + self.branch(y, None, groups)
            x = x if pre else self.cross_norm(x)
        if self.mlp is None:
            return x
        if self.norm2 is not None:
            h = self.norm2(x) if pre else x
        y = self.mlp(h) if not self.shifts_tokens else self.mlp(h, context, None if state is None else state.mlp)
        if self.post_norm2 is not None:
            y = self.post_norm2(y)
        if self.training or self.scale2 is not None:
            y = self.branch(y, self.scale2, groups)
        return x + y if pre or self.norm2 is None else self.norm2(x + y)

    def mix_rows(self, x: Tensor, context: Context, state: LayerState | None) -> Tensor:
        """Apply a mixer that does not handle packed rows itself to each group of rows."""
        if context.groups is None:
            if getattr(self.mixer, "masks_padding", False):
                return self.mixer(x, context, state)
            if isinstance(context.mask, MaskView) and context.mask.keep is not None:
                if state is not None and isinstance(state.mixer, RecurrentState):
                    return self.mix_real(x, context, state, context.mask.keep[:, -x.shape[1] :])
                if state is None and context.mask.inner == CAUSAL:
                    return self.mix_aligned(x, context, context.mask.keep.bool())
                name = type(self.mixer).__name__
                raise ValueError(
                    f"the mixer {name} has no attention weights and cannot mask padding: keep drop_padding=True, "
                    "decode rows of equal length, and compile or export without attention_mask"
                )
            return self.mixer(x, context, state)
        rows_alone = Context(mask=context.mask, bias=context.bias)
        return run_grouped(
            lambda rows: self.mixer(rows[:, 0], rows_alone, None)[:, None], context.groups, [x[:, None]]
        )[:, 0]

    def mix_aligned(self, x: Tensor, context: Context, keep: Tensor) -> Tensor:
        """Apply a causal mixer to padded rows, keep [B, N]: padding is behind the real tokens, which do not see it."""
        index = places_real_first(keep)[..., None].expand_as(x)
        rows = torch.zeros_like(x).scatter(1, index, x)
        return self.mixer(rows, Context(mask=CAUSAL, bias=context.bias), None).gather(1, index)

    def mix_real(self, x: Tensor, context: Context, state: LayerState, keep: Tensor) -> Tensor:
        """Apply a recurrent mixer to new tokens of which some are padding, keep [B, N]: its state sees real ones."""
        context = Context(mask=context.mask.inner if isinstance(context.mask, MaskView) else context.mask)
        if keep.all():
            return self.mixer(x, context, state)
        assert isinstance(state.mixer, RecurrentState)
        y = torch.zeros_like(x)
        for row, real in enumerate(keep.bool()):
            index = torch.tensor([row], device=x.device)
            if real.any():
                own = state.mixer.rows(index)
                y[row, real] = self.mixer(x[row, real][None], context, LayerState(own))[0].to(y.dtype)
                state.mixer.write(index, own)
        return y

    def branch(self, y: Tensor, scale: nn.Module | None, groups: Groups | None) -> Tensor:
        """LayerScale, dropout and drop path of a residual branch."""
        if scale is not None:
            y = scale(y)
        if self.training and self.dropout:
            y = F.dropout(y, self.dropout)
        if self.training and self.drop_path:
            y = y * drop_path_scale(y, self.drop_path, groups)
        return y


def drop_path_scale(y: Tensor, drop: float, groups: Groups | None) -> Tensor:
    """Factors of drop path, [B, 1, 1] or, for packed rows, [1, T, 1]: 0 for dropped samples, else 1 / (1 - drop)."""
    rows = y.shape[0] if groups is None else len(groups.lengths)
    scale = torch.empty(rows, device=y.device, dtype=y.dtype).bernoulli_(1 - drop) / (1 - drop)
    return scale[:, None, None] if groups is None else scale[groups.row][None, :, None]
