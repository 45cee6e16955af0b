"""Embedding of waveforms: strided convolutions over the samples, and convolutional position embeddings.

Source: wav2vec 2.0, https://arxiv.org/abs/2006.11477, section 2. A padded clip gives the same outputs as the clip
alone: convolutions do not reach beyond their frame, the norm over time counts real frames only, and clips of different
lengths are processed separately.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.nn.frontends.inputs import check_input_dtype
from zoo.nn.init import Initializer, normal_
from zoo.nn.mlp import activation
from zoo.nn.padding import real_tokens
from zoo.utils.cpu_features import CPUFeatures
from zoo.utils.transfer import to_device

ConvNorm = Literal["group", "layer"]
# Clips are convolved in one batch if the shortest has at least this fraction of the samples of the longest.
MIN_LENGTH_RATIO = 0.8
CPU = CPUFeatures.detect()


class ClipNorm(nn.GroupNorm):
    """Normalizes each channel of a clip over its real frames; with a weight and a bias per channel."""

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """x [B, C, T]; real [B, T]: True for real frames."""
        if real is None:
            return super().forward(x)
        keep = real[:, None]
        upcast = x.double() if x.dtype == torch.float64 else x.float()
        count = keep.sum(-1, keepdim=True).clamp(min=1)
        centered = (upcast - (upcast * keep).sum(-1, keepdim=True) / count) * keep
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
        x = self.convolve(x)
        if isinstance(self.norm, ClipNorm):
            x = self.norm(x, real)
        elif self.norm is not None:
            x = self.norm(x.mT).mT
        return self.act(x)

    def convolve(self, x: Tensor) -> Tensor:
        """conv(x), computed in float32 where the gradient of a bfloat16 convolution is wrong; see `CPUFeatures.amx`."""
        if not (CPU.amx and x.device.type == "cpu" and torch.is_grad_enabled()):
            return self.conv(x)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if dtype != torch.bfloat16:
            return self.conv(x)
        bias = None if self.conv.bias is None else self.conv.bias.float()
        with torch.autocast("cpu", enabled=False):
            return F.conv1d(x.float(), self.conv.weight.float(), bias, self.conv.stride).to(dtype)


class ConvPositions(nn.Module):
    """Convolutional position embedding: x + act(conv(x)), a grouped convolution over tokens. [B, N, D] -> [B, N, D].

    The weight has a direction and a gain per kernel position (weight norm, Salimans & Kingma 2016).
    """

    def __init__(self, width: int, kernel: int, groups: int, act: str) -> None:
        super().__init__()
        if width % groups:
            raise ValueError(f"width={width} is not divisible by position_groups={groups}: choose a divisor")
        self.kernel, self.groups, self.act = kernel, groups, activation(act)
        self.gain = nn.Parameter(torch.empty(kernel))
        self.direction = nn.Parameter(torch.empty(width, width // groups, kernel))
        self.bias = nn.Parameter(torch.empty(width))

    def initialize(self, generator_for: Initializer) -> None:
        """As in fairseq: the weight has the variance 4 / (kernel * width)."""
        normal_(self.direction, 2 * (self.kernel * len(self.bias)) ** -0.5, generator_for("direction"))
        self.gain.copy_(torch.linalg.vector_norm(self.direction, dim=(0, 1)))
        nn.init.zeros_(self.bias)

    def weight(self) -> Tensor:
        """The normalized weight [D, D / groups, kernel]."""
        return self.direction * (self.gain / torch.linalg.vector_norm(self.direction, dim=(0, 1)))

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """x must be zero at padding. weight: precomputed `weight()`, to share it between calls."""
        weight = self.weight() if weight is None else weight
        y = F.conv1d(x.mT, weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return x + self.act(y[..., : x.shape[1]]).mT  # an even kernel gives one token too many

    def extra_repr(self) -> str:
        return f"{len(self.bias)}, kernel={self.kernel}, groups={self.groups}"


class WaveformEmbedding(nn.Module):
    """Waveforms [B, S] -> tokens [B, N, D], and a mask of the real ones.

    channels, kernels, strides: of each convolution. conv_norm: "group", over time after the first convolution, or
    "layer", over channels after each. feature_norm: a norm before the projection to `width`. norm: a norm after the
    position embedding.
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
        self.mask_checked = False

    def frames(self, samples: Any) -> Any:
        """Number of tokens for a number of samples, given as an int or a tensor."""
        return tokens_for(samples, self.kernels, self.strides)

    @property
    def min_samples(self) -> int:
        """Number of samples that one token needs."""
        return min_samples_for(1, self.kernels, self.strides)

    def forward(
        self,
        waveforms: Tensor,
        keep: Tensor | None = None,
        counts: Sequence[int] | None = None,
        *,
        drop_padding: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """waveforms [B, S]; keep [B, S]: 1 or True for real samples -> (tokens [B, N, D], keep [B, N] or None).

        The real tokens of a row come first, wherever its padding was. counts: the number of real samples of each row;
        without it the host waits for a GPU. drop_padding: process clips of different lengths separately, without their
        padding.
        """
        tokens = self.frames(waveforms.shape[1])
        if keep is None:
            return self.tokens(waveforms), None
        if counts is None and not torch.compiler.is_compiling() and not (self.mask_checked and keep.is_cuda):
            real_tokens(keep)  # on a GPU, checking each batch would wait for the device in every step
            self.mask_checked = True
        waveforms, lengths = left_align(waveforms, keep.bool())
        if counts is not None and keep.device.type != "cpu":
            same = (lengths == to_device(counts, keep.device)).all()
            torch._assert_async(same, "lengths= must be the sums of the rows of attention_mask")
        real = torch.arange(tokens, device=waveforms.device) < self.frames(lengths)[:, None]
        if torch.compiler.is_compiling() or not drop_padding:
            return self.tokens(waveforms, lengths), real
        return self.by_length(waveforms, lengths, lengths.tolist() if counts is None else counts), real

    def by_length(self, waveforms: Tensor, lengths: Tensor, counts: Sequence[int]) -> Tensor:
        """Tokens of clips of different lengths, processed in groups of similar length; zeros at padding.

        lengths [B], counts: the number of samples of each, on the device and on the host.
        """
        weight = self.positions.weight()
        if short := [row for row, n in enumerate(counts) if 0 < n < self.min_samples]:
            raise ValueError(f"row {short[0]} has {counts[short[0]]} samples, but a token needs {self.min_samples}")
        tokens, parts, groups = self.frames(waveforms.shape[1]), [], group_by_length(counts)
        empty = [row for row, n in enumerate(counts) if n == 0]
        order = to_device([row for rows in groups for row in rows] + empty, waveforms.device)
        start = 0
        for rows in groups:
            longest, own = counts[rows[0]], order[start : start + len(rows)]
            same_length = counts[rows[-1]] == longest
            part = self.tokens(waveforms[own, :longest], None if same_length else lengths[own], weight)
            parts.append(F.pad(part, (0, 0, 0, tokens - part.shape[1])))
            start += len(rows)
        like = parts[0] if parts else waveforms
        parts.append(like.new_zeros(len(empty), tokens, self.width))
        return torch.cat(parts)[order.argsort()]

    def tokens(self, waveforms: Tensor, lengths: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """waveforms [B, S] -> tokens [B, N, D]; lengths [B]: number of real samples, for padded rows."""
        x = waveforms[:, None]
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

    def check(self, waveforms: Tensor, keep: Tensor | None) -> None:
        """Raise ValueError for inputs that are not waveforms and for clips that are too short."""
        if waveforms.ndim != 2 or not waveforms.is_floating_point():
            raise ValueError(
                f"expected waveforms [B, S] of a float dtype, got {tuple(waveforms.shape)} of {waveforms.dtype}; "
                "use model.preprocess(audio)"
            )
        if isinstance(self.proj, nn.Linear):  # optimized models convert their inputs
            check_input_dtype("input_values", waveforms, self.proj.weight)
        if waveforms.shape[1] < self.min_samples:
            raise ValueError(f"clips of {waveforms.shape[1]} samples are too short: a token needs {self.min_samples}")
        if keep is not None and keep.shape != waveforms.shape:
            raise ValueError(f"attention_mask has the shape {tuple(keep.shape)}, expected {tuple(waveforms.shape)}")
        if keep is not None and keep.is_floating_point():
            raise ValueError(f"attention_mask is {keep.dtype}, expected integers or bools, 1 for real samples")


def tokens_for(samples: Any, kernels: Sequence[int], strides: Sequence[int]) -> Any:
    """Number of tokens of a number of samples, given as an int or a tensor."""
    for kernel, stride in zip(kernels, strides):
        samples = (samples - kernel) // stride + 1
    return samples.clamp(min=0) if isinstance(samples, Tensor) else max(samples, 0)


def min_samples_for(tokens: int, kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Number of samples that a number of tokens needs."""
    for kernel, stride in zip(reversed(kernels), reversed(strides)):
        tokens = (tokens - 1) * stride + kernel
    return tokens


def left_align(waveforms: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Move the real samples of each row to its start. Returns (waveforms with zeros at padding, lengths [B])."""
    lengths = keep.sum(1)
    index = torch.arange(waveforms.shape[1], device=waveforms.device)
    first = index < lengths[:, None]
    if torch.compiler.is_compiling() or keep.is_cuda or not torch.equal(first, keep):  # no wait for a GPU
        real = keep.cumsum(1)
        place = torch.where(keep, real - 1, lengths[:, None] + index - real)  # a permutation of each row
        waveforms = waveforms.scatter(1, place, waveforms)
    return waveforms.masked_fill(~first, 0), lengths


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Group rows of similar length, longest first; rows of length 0 are left out."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if lengths[row] and groups and lengths[row] >= MIN_LENGTH_RATIO * lengths[groups[-1][0]]:
            groups[-1].append(row)
        elif lengths[row]:
            groups.append([row])
    return groups
