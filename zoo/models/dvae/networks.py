"""Convolutional encoders and decoders of image tokenizers.

"conv": 4 x 4 convolutions of stride 2, then residual blocks at the lowest resolution; the decoder mirrors it with
transposed convolutions (the discrete VAE of dalle-pytorch). "pool": groups of residual bottlenecks with max pooling in
between, and nearest-neighbor upsampling in the decoder (the published dVAE of DALL-E, Ramesh et al. 2021).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.init import Initializer, normal_


class Conv(nn.Conv2d):
    """A convolution with initial weights of the size that keeps the variance, as in DALL-E's dVAE."""

    def initialize(self, generator_for: Initializer) -> None:
        normal_(self.weight, self.weight[0].numel() ** -0.5, generator_for("weight"))
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class TransposedConv(nn.ConvTranspose2d):
    """A transposed convolution, initialized as `Conv`: a value of the output has inputs from kernel / stride places."""

    def initialize(self, generator_for: Initializer) -> None:
        places = self.kernel_size[0] * self.kernel_size[1] / (self.stride[0] * self.stride[1])
        normal_(self.weight, (self.in_channels * places) ** -0.5, generator_for("weight"))
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ResidualBlock(nn.Module):
    """x + convolutions of kernels 3, 3 and 1 with ReLU in between; [B, C, h, w] -> [B, C, h, w]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([Conv(width, width, k, padding=k // 2) for k in (3, 3, 1)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.convs[1](self.convs[0](x).relu()).relu()
        return x + self.convs[2](y)


class Bottleneck(nn.Module):
    """skip(x) + gain * convolutions of a quarter of the width, ReLU before each; [B, C, h, w] -> [B, C', h, w].

    skip: a 1 x 1 convolution where the width changes. kernels: of the four convolutions.
    """

    def __init__(self, inputs: int, outputs: int, gain: float, kernels: Sequence[int]) -> None:
        super().__init__()
        widths = [inputs, *[outputs // 4] * 3, outputs]
        self.gain = gain
        self.skip = Conv(inputs, outputs, 1) if inputs != outputs else None
        self.convs = nn.ModuleList(
            [Conv(a, b, k, padding=k // 2) for (a, b), k in zip(pairwise(widths), kernels, strict=True)]
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for conv in self.convs:
            y = conv(y.relu())
        return (x if self.skip is None else self.skip(x)) + self.gain * y


class ConvEncoder(nn.Module):
    """Pixels [B, in_chans, H, W] -> [B, outputs, H / 2^n, W / 2^n] for n `widths`."""

    def __init__(self, in_chans: int, widths: Sequence[int], depth: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([Conv(a, b, 4, 2, padding=1) for a, b in pairwise([in_chans, *widths])])
        self.blocks = nn.ModuleList([ResidualBlock(widths[-1]) for _ in range(depth)])
        self.out = Conv(widths[-1], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x).relu()
        for block in self.blocks:
            x = block(x)
        return self.out(x)


class ConvDecoder(nn.Module):
    """Codes [B, code_width, h, w] -> [B, outputs, 2^n h, 2^n w], the mirror image of `ConvEncoder`."""

    def __init__(self, code_width: int, widths: Sequence[int], depth: int, outputs: int) -> None:
        super().__init__()
        widths = list(reversed(widths))
        self.stem = Conv(code_width, widths[0], 1) if depth else None
        self.blocks = nn.ModuleList([ResidualBlock(widths[0]) for _ in range(depth)])
        inputs = [widths[0] if depth else code_width, *widths]
        self.convs = nn.ModuleList([TransposedConv(a, b, 4, 2, padding=1) for a, b in pairwise(inputs)])
        self.out = Conv(widths[-1], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.stem is None else self.stem(x)
        for block in self.blocks:
            x = block(x)
        for conv in self.convs:
            x = conv(x).relu()
        return self.out(x)


def bottlenecks(widths: Sequence[int], depth: int, kernels: Sequence[int]) -> nn.ModuleList:
    """Groups of `depth` bottlenecks, from each width to the next; the gain of each is the number of all of them ** -2.

    With it the variance of the sum over all residual branches stays small at the beginning of training.
    """
    gain = 1 / (depth * (len(widths) - 1)) ** 2
    return nn.ModuleList(
        nn.ModuleList(Bottleneck(a if i == 0 else b, b, gain, kernels) for i in range(depth))
        for a, b in pairwise(widths)
    )


class PoolEncoder(nn.Module):
    """Pixels [B, in_chans, H, W] -> [B, outputs, H / 2^(n-1), W / 2^(n-1)] for n `widths`."""

    def __init__(self, in_chans: int, widths: Sequence[int], depth: int, outputs: int) -> None:
        super().__init__()
        self.stem = Conv(in_chans, widths[0], 7, padding=3)
        self.groups = bottlenecks([widths[0], *widths], depth, (3, 3, 3, 1))
        self.out = Conv(widths[-1], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i, group in enumerate(self.groups):
            x = x if i == 0 else F.max_pool2d(x, 2)
            for block in cast(nn.ModuleList, group):
                x = block(x)
        return self.out(x.relu())


class PoolDecoder(nn.Module):
    """Codes [B, code_width, h, w] -> [B, outputs, 2^(n-1) h, 2^(n-1) w], the mirror image of `PoolEncoder`.

    The embeddings of the codes take the place of a first convolution over one-hot codes.
    """

    def __init__(self, code_width: int, widths: Sequence[int], depth: int, outputs: int) -> None:
        super().__init__()
        widths = list(reversed(widths))
        self.groups = bottlenecks([code_width, *widths], depth, (1, 3, 3, 3))
        self.out = Conv(widths[-1], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        for i, group in enumerate(self.groups):
            x = x if i == 0 else F.interpolate(x, scale_factor=2, mode="nearest")
            for block in cast(nn.ModuleList, group):
                x = block(x)
        return self.out(x.relu())


ENCODERS = {"conv": ConvEncoder, "pool": PoolEncoder}
DECODERS = {"conv": ConvDecoder, "pool": PoolDecoder}
