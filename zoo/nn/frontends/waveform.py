"""Waveforms to tokens: convolutions with strides over the samples, and positions that are a convolution too.

Source: wav2vec 2.0, https://arxiv.org/abs/2006.11477, section 2. A padded clip gives what it gives alone: convolutions
do not look beyond their frame, the norm over time counts real frames alone, and clips of unlike lengths go through one
after the other.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.nn.init import Initializer, normal_
from zoo.nn.mlp import activation

ConvNorm = Literal["group", "layer"]
# Clips go through the convolutions together as long as the shortest has this share of the longest one's samples.
ALIKE = 0.8


class ClipNorm(nn.GroupNorm):
    """Each channel of a clip with mean 0 and variance 1 over its real frames, then a gain and a bias per channel."""

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """x [B, C, T]; real [B, T] is True for real frames."""
        if real is None:
            return super().forward(x)
        keep = real[:, None]
        wide = x.double() if x.dtype == torch.float64 else x.float()
        count = keep.sum(-1, keepdim=True).clamp(min=1)
        centered = (wide - (wide * keep).sum(-1, keepdim=True) / count) * keep
        scale = (centered.square().sum(-1, keepdim=True) / count + self.eps).rsqrt()
        return (centered * scale).to(x.dtype) * self.weight[:, None] + self.bias[:, None]


class ConvLayer(nn.Module):
    """act(norm(conv(x))), [B, C, T] -> [B, C', T'] without padding."""

    def __init__(
        self, channels: tuple[int, int], kernel: int, stride: int, *, bias: bool, norm: ConvNorm | None, act: str
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(*channels, kernel, stride, bias=bias)
        self.norm: nn.Module | None = None
        if norm is not None:
            self.norm = ClipNorm(channels[1], channels[1]) if norm == "group" else nn.LayerNorm(channels[1])
        self.act_name, self.act = act, activation(act)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        x = self.conv(x)
        if isinstance(self.norm, ClipNorm):
            x = self.norm(x, real)
        elif self.norm is not None:
            x = self.norm(x.mT).mT
        return self.act(x)


class ConvPositions(nn.Module):
    """x + act(conv(x)): a grouped convolution over tokens tells each where it stands. [B, N, D] -> [B, N, D].

    Its weight is a direction and a gain per place in the kernel (weight norm, Salimans & Kingma 2016).
    """

    def __init__(self, width: int, kernel: int, groups: int, act: str) -> None:
        super().__init__()
        if width % groups:
            raise ValueError(f"width={width} does not divide into position_groups={groups}: choose a divisor")
        self.kernel, self.groups, self.act = kernel, groups, activation(act)
        self.gain = nn.Parameter(torch.empty(kernel))
        self.direction = nn.Parameter(torch.empty(width, width // groups, kernel))
        self.bias = nn.Parameter(torch.empty(width))

    def initialize(self, draw: Initializer) -> None:
        """fairseq's: the weight has the variance 4 / (kernel * width)."""
        normal_(self.direction, 2 * (self.kernel * len(self.bias)) ** -0.5, draw("direction"))
        self.gain.copy_(torch.linalg.vector_norm(self.direction, dim=(0, 1)))
        nn.init.zeros_(self.bias)

    def weight(self) -> Tensor:
        """[D, D / groups, kernel]."""
        return self.direction * (self.gain / torch.linalg.vector_norm(self.direction, dim=(0, 1)))

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Tokens that are padding have to be zero. weight: `weight()`, where several calls share it."""
        weight = self.weight() if weight is None else weight
        y = F.conv1d(x.mT, weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return x + self.act(y[..., : x.shape[1]]).mT  # an even kernel gives one token too many

    def extra_repr(self) -> str:
        return f"{len(self.bias)}, kernel={self.kernel}, groups={self.groups}"


class WaveformEmbedding(nn.Module):
    """Samples [B, S] -> tokens [B, N, D], and which of them are real.

    channels, kernels, strides: of each convolution. conv_norm: "group", over time, behind the first of them, or
    "layer", over channels, behind each. feature_norm: whether a norm stands before the map to `width`. norm: one that
    stands behind the positions.
    """

    def __init__(
        self,
        channels: Sequence[int],
        kernels: Sequence[int],
        strides: Sequence[int],
        width: int,
        *,
        conv_bias: bool,
        conv_norm: ConvNorm,
        act: str,
        positions: ConvPositions,
        feature_norm: nn.Module | None,
        norm: nn.Module | None,
    ) -> None:
        super().__init__()
        self.kernels, self.strides, self.width = tuple(kernels), tuple(strides), width
        pairs = zip((1, *channels), channels)
        self.layers = nn.ModuleList(
            ConvLayer(pair, k, s, bias=conv_bias, norm=conv_norm if i == 0 or conv_norm == "layer" else None, act=act)
            for i, (pair, k, s) in enumerate(zip(pairs, kernels, strides, strict=True))
        )
        self.norm = feature_norm
        self.proj = nn.Linear(channels[-1], width)
        self.positions = positions
        self.position_norm = norm
        self.checkpointing = False

    def frames(self, samples: Any) -> Any:
        """How many tokens a clip of so many samples becomes; an int or a tensor of them."""
        for kernel, stride in zip(self.kernels, self.strides):
            samples = (samples - kernel) // stride + 1
        return samples.clamp(min=0) if isinstance(samples, Tensor) else max(samples, 0)

    @property
    def least(self) -> int:
        """The fewest samples that make a token."""
        return samples_for(1, self.kernels, self.strides)

    def forward(self, waves: Tensor, keep: Tensor | None = None, *, apart: bool = True) -> tuple[Tensor, Tensor | None]:
        """waves [B, S]; keep [B, S] is 1 or True for real samples -> (tokens [B, N, D], keep [B, N] or None).

        The tokens of a row come first in it, wherever its padding stood. apart: clips of unlike lengths go through one
        after the other, without their padding.
        """
        self.check(waves, keep)
        tokens = self.frames(waves.shape[1])
        if keep is None:
            return self.tokens(waves), None
        waves, lengths = real_first(waves, keep.bool())
        real = torch.arange(tokens, device=waves.device) < self.frames(lengths)[:, None]
        if torch.compiler.is_compiling() or not apart:
            return self.tokens(waves, lengths), real
        return self.by_length(waves, lengths), real

    def by_length(self, waves: Tensor, lengths: Tensor) -> Tensor:
        """The tokens of clips of unlike lengths, zeros behind them."""
        counts, weight = lengths.tolist(), self.positions.weight()
        if short := [row for row, n in enumerate(counts) if 0 < n < self.least]:
            raise ValueError(f"row {short[0]} has {counts[short[0]]} samples; a token takes at least {self.least}")
        tokens, parts, order = self.frames(waves.shape[1]), [], []
        for rows in alike(counts):
            longest = counts[rows[0]]
            even = counts[rows[-1]] == longest
            part = self.tokens(waves[rows, :longest], None if even else lengths[rows], weight)
            parts.append(F.pad(part, (0, 0, 0, tokens - part.shape[1])))
            order += rows
        silent = [row for row, n in enumerate(counts) if n == 0]
        like = parts[0] if parts else waves
        parts.append(like.new_zeros(len(silent), tokens, self.width))
        place = torch.tensor(order + silent, device=waves.device).argsort()
        return torch.cat(parts)[place]

    def tokens(self, waves: Tensor, lengths: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """[B, S] -> [B, N, D]; with lengths [B], what lies behind them is padding."""
        x = waves[:, None]
        for i, layer in enumerate(self.layers):
            real = None
            if i == 0 and lengths is not None:
                first = (lengths - self.kernels[0]) // self.strides[0] + 1
                real = torch.arange((x.shape[2] - self.kernels[0]) // self.strides[0] + 1, device=x.device)
                real = real < first[:, None]
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, real, use_reentrant=False)
            else:
                x = layer(x, real)
        x = x.mT  # B N C
        x = self.proj(x if self.norm is None else self.norm(x))
        if lengths is not None:
            x = x * (torch.arange(x.shape[1], device=x.device) < self.frames(lengths)[:, None])[..., None]
        x = self.positions(x, weight)
        return x if self.position_norm is None else self.position_norm(x)

    def check(self, waves: Tensor, keep: Tensor | None) -> None:
        """Raises ValueError for what are no waveforms, and for those too short for a token."""
        if waves.ndim != 2 or not waves.is_floating_point():
            raise ValueError(
                f"expected samples [B, S] of floats, given {tuple(waves.shape)} of {waves.dtype}; "
                "model.preprocess(sounds) makes them"
            )
        if waves.shape[1] < self.least:
            raise ValueError(f"clips of {waves.shape[1]} samples are too short: a token takes at least {self.least}")
        if keep is not None and keep.shape != waves.shape:
            raise ValueError(f"attention_mask is {tuple(keep.shape)}, expected {tuple(waves.shape)}")
        if keep is not None and keep.is_floating_point():
            raise ValueError(f"attention_mask is {keep.dtype}; expected integers or bools, 1 for real samples")


def samples_for(tokens: int, kernels: Sequence[int], strides: Sequence[int]) -> int:
    """The fewest samples that make so many tokens."""
    for kernel, stride in zip(reversed(kernels), reversed(strides)):
        tokens = (tokens - 1) * stride + kernel
    return tokens


def real_first(waves: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """(the real samples of each row in front of zeros, how many there are [B])."""
    lengths = keep.sum(1)
    first = torch.arange(waves.shape[1], device=waves.device) < lengths[:, None]
    if torch.compiler.is_compiling() or not torch.equal(first, keep):
        waves = waves.gather(1, (~keep).to(torch.uint8).argsort(dim=1, stable=True))
    return waves.masked_fill(~first, 0), lengths


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Rows whose clips are of similar length, longest first; those of length 0 are in none."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if lengths[row] and groups and lengths[row] >= ALIKE * lengths[groups[-1][0]]:
            groups[-1].append(row)
        elif lengths[row]:
            groups.append([row])
    return groups
