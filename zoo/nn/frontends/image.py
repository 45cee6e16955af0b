"""Patch embedding of images: patches or a convolutional stem, prefix tokens, learned positions."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.frontends.inputs import check_input_dtype
from zoo.nn.init import Initializer, normal_, trunc_normal_
from zoo.utils.transfer import to_device

Stem = Literal["patch", "conv"]
# The part of a side that patches may leave out in silence: published models leave out up to 6 of 384 pixels (SigLIP),
# 2 of 128 mel bins and 8 of 1,024 frames (AST).
MAX_UNSEEN = 0.02


class PatchEmbedding(nn.Module):
    """pixels [B, C, H, W] -> tokens [B, prefix + rows * columns, D].

    The prefix is the class token, the distillation token and registers, as far as there are any.
    stem: "patch", one linear projection per patch (Dosovitskiy et al. 2021), or "conv", 3 x 3 convolutions of stride 2
        (Xiao et al. 2021; with group norm instead of batch norm, so that rows of a batch stay independent).
    position_prefix: number of prefix tokens, from the first one on, that have a position embedding.
    norm: applied to all tokens; the patch projection then has no bias.
    stride: step from one patch to the next, for overlapping patches; pixels left over at the far edges are ignored,
        with a warning if they are more than 2 % of a side.
    antialias: how position embeddings are resampled for images of other sizes, see `resample_grid`.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        patch_size: tuple[int, int],
        in_chans: int,
        width: int,
        *,
        stem: Stem = "patch",
        class_token: bool = True,
        distilled: bool = False,
        registers: int = 0,
        position_prefix: int | None = None,
        stride: tuple[int, int] | None = None,
        norm: nn.Module | None = None,
        antialias: bool = True,
    ) -> None:
        super().__init__()
        self.image_size, self.patch_size, self.in_chans = image_size, patch_size, in_chans
        self.stride, self.antialias = stride, antialias
        self.grid = self.grid_for(image_size)
        if stride is not None:
            warn_if_unseen(image_size, patch_size, stride)
        self.proj: nn.Module = (
            nn.Conv2d(in_chans, width, patch_size, stride or patch_size, bias=norm is None)
            if stem == "patch"
            else conv_stem(in_chans, width, patch_size)
        )
        self.cls = nn.Parameter(torch.empty(width)) if class_token else None
        self.dist = nn.Parameter(torch.empty(width)) if distilled else None
        self.registers = nn.Parameter(torch.empty(registers, width)) if registers else None
        self.prefix = class_token + distilled + registers
        self.position_prefix = self.prefix - registers if position_prefix is None else position_prefix
        if not 0 <= self.position_prefix <= self.prefix:
            raise ValueError(
                f"position_prefix={position_prefix}: expected 0 to {self.prefix}, the number of prefix tokens"
            )
        self.positions = nn.Parameter(torch.empty(self.position_prefix + self.grid[0] * self.grid[1], width))
        self.norm = norm
        self.range_checked = False  # the range of the pixels is checked once

    def initialize(self, generator_for: Initializer) -> None:
        """As in timm: prefix tokens nearly zero, positions from a truncated normal."""
        for name, token in (("cls", self.cls), ("dist", self.dist), ("registers", self.registers)):
            if token is not None:
                normal_(token, 1e-6, generator_for(name))
        trunc_normal_(self.positions, 0.02, generator_for("positions"))

    def forward(self, pixels: Tensor, any_size: bool = False) -> Tensor:
        """any_size: accept images of sizes other than `image_size`; the position embeddings are then interpolated."""
        grid = self.grid
        if any_size and pixels.ndim == 4 and pixels.shape[2:] != self.image_size:
            grid = self.grid_for((pixels.shape[2], pixels.shape[3]))
        x = self.proj(self.check_pixels(pixels, sized=grid == self.grid)).flatten(2).mT  # B D h w -> B N D
        x = x + resample_grid(self.positions[self.position_prefix :], self.grid, grid, self.antialias)
        if self.prefix:
            x = torch.cat([self.prefix_tokens().expand(x.shape[0], -1, -1).to(x.dtype), x], 1)
        return x if self.norm is None else self.norm(x)

    def prefix_tokens(self) -> Tensor:
        """The prefix tokens with their position embeddings, [1, prefix, D]."""
        rows = [] if self.cls is None else [self.cls[None]]
        rows += [] if self.dist is None else [self.dist[None]]
        rows += [] if self.registers is None else [self.registers]
        tokens = torch.cat(rows)
        if self.position_prefix:
            placed = F.pad(self.positions[: self.position_prefix], (0, 0, 0, self.prefix - self.position_prefix))
            tokens = tokens + placed
        return tokens[None]

    def grid_for(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Number of patches (rows, columns) of an image. Raises ValueError for a size that does not fit the patches."""
        if self.stride is None:
            return patch_grid(image_size, self.patch_size)
        return overlapping_grid(image_size, self.patch_size, self.stride)

    def check_pixels(self, pixels: Tensor, sized: bool = True) -> Tensor:
        """Check shape and channels (sized: also the size) and warn once of unnormalized pixels; returns floats."""
        if pixels.ndim != 4 or pixels.shape[1] != self.in_chans:
            raise ValueError(
                f"expected pixel_values [B, {self.in_chans}, {self.image_size[0]}, {self.image_size[1]}], got "
                f"{tuple(pixels.shape)}; for another number of channels pass in_chans= to create_model or load"
            )
        if sized and tuple(pixels.shape[2:]) != self.image_size:
            raise ValueError(
                f"the images are {pixels.shape[2]} x {pixels.shape[3]}, but the model expects {self.image_size[0]} x "
                f"{self.image_size[1]}; resize them (model.preprocess does) or pass image_size= to create_model or load"
            )
        if not self.range_checked and not torch.compiler.is_compiling():
            self.range_checked = True
            warn_if_unnormalized(pixels)
        if not pixels.is_floating_point():
            return pixels.to(self.positions.dtype)
        check_input_dtype("pixel_values", pixels, self.positions)
        return pixels

    def extra_repr(self) -> str:
        return f"image_size={self.image_size}, patch_size={self.patch_size}, prefix={self.prefix}"


def warn_if_unnormalized(pixels: Tensor) -> None:
    """Warn when the pixels of a batch cannot have been normalized; meta tensors are skipped."""
    if pixels.device.type == "meta" or pixels.numel() == 0:
        return
    found = None
    if not pixels.is_floating_point():
        found = f"integers ({pixels.dtype})"
    elif pixels.max() > 20:
        found = f"values up to {float(pixels.max()):.0f}, as in 8-bit images"
    elif pixels.min() >= 0 and pixels.max() > 0:
        found = f"values from {float(pixels.min()):.2g} to {float(pixels.max()):.2g}, as in unnormalized images"
    if found:
        warnings.warn(
            f"pixel_values contains {found}, but models expect normalized floats; use model.preprocess(images)",
            stacklevel=6,
        )


def patch_grid(image_size: tuple[int, int], patch_size: tuple[int, int]) -> tuple[int, int]:
    """Number of patches (rows, columns). Raises ValueError for a size that is not a multiple of the patch size."""
    if any(side % patch for side, patch in zip(image_size, patch_size, strict=True)):
        nearest = tuple(max(patch, side // patch * patch) for side, patch in zip(image_size, patch_size, strict=True))
        raise ValueError(f"image_size={image_size} is not a multiple of patch_size={patch_size}; use {nearest}")
    return image_size[0] // patch_size[0], image_size[1] // patch_size[1]


def resample_grid(positions: Tensor, old: tuple[int, int], new: tuple[int, int], antialias: bool = True) -> Tensor:
    """Interpolate position embeddings [h * w, D] from one grid (rows, columns) to another: bicubic.

    antialias: as timm, open_clip and transformers' DINOv2 with registers do; transformers' other models do not.
    """
    if old == new:
        return positions
    image = positions.float().view(1, *old, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=new, mode="bicubic", antialias=antialias)
    return image.permute(0, 2, 3, 1).reshape(-1, positions.shape[-1]).to(positions.dtype)


def run_by_size(images: Sequence[Tensor], run: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `run`, [B, C, H, W] -> [B, ...], to images [C, H, W] batched by size; keeps the order of the images."""
    if not images:
        raise ValueError("the list of images is empty: expected tensors [C, H, W]")
    if wrong := [x for x in images if x.ndim != 3]:
        raise ValueError(f"expected a list of images [C, H, W] of any sizes, got one of shape {tuple(wrong[0].shape)}")
    sizes: dict[torch.Size, list[int]] = {}
    for i, image in enumerate(images):
        sizes.setdefault(image.shape, []).append(i)
    outputs = torch.cat([run(torch.stack([images[i] for i in rows])) for rows in sizes.values()])
    order = to_device([i for rows in sizes.values() for i in rows], outputs.device)
    return outputs[order.argsort()]


def overlapping_grid(
    image_size: tuple[int, int], patch_size: tuple[int, int], stride: tuple[int, int]
) -> tuple[int, int]:
    """Number of overlapping patches (rows, columns) at a step of `stride`."""
    sides = list(zip(image_size, patch_size, stride, strict=True))
    if any(side < patch for side, patch, _ in sides):
        raise ValueError(f"patch_size={patch_size} is larger than the input {image_size}: choose a smaller patch_size")
    rows, columns = ((side - patch) // step + 1 for side, patch, step in sides)
    return rows, columns


def warn_if_unseen(image_size: tuple[int, int], patch_size: tuple[int, int], stride: tuple[int, int]) -> None:
    """Warn when patches leave out a part of the input at the far edges."""
    for side, patch, step in zip(image_size, patch_size, stride, strict=True):
        unseen = (side - patch) % step
        if unseen > MAX_UNSEEN * side:
            warnings.warn(
                f"the model never sees the last {unseen} of {side} pixels, mel bins or frames: patches of {patch} at a "
                f"step of {step} end before them; choose another size, or a stride that divides {side - patch}",
                stacklevel=2,
            )


def conv_stem(in_chans: int, width: int, patch_size: tuple[int, int]) -> nn.Sequential:
    """3 x 3 convolutions of stride 2 with channels doubling up to `width`, then 1 x 1: one token per patch."""
    steps = int(math.log2(patch_size[0]))
    if patch_size[0] != patch_size[1] or 2**steps != patch_size[0] or steps == 0:
        raise ValueError(f"stem='conv' needs a square patch_size that is a power of 2 (2, 4, 8, 16), got {patch_size}")
    layers: list[nn.Module] = []
    channels_in = in_chans
    for step in range(steps):
        channels = max(width // 2 ** (steps - 1 - step), 8)
        layers += [
            nn.Conv2d(channels_in, channels, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(1, channels),
            nn.ReLU(),
        ]
        channels_in = channels
    return nn.Sequential(*layers, nn.Conv2d(channels_in, width, 1))


Size = tuple[int, int]


def resample_kernel(kernel: Tensor, new: Size) -> Tensor:
    """Resample a kernel [D, C, h, w] to another patch size by FlexiViT's pseudo-inverse (Beyer et al. 2023, eq. 4).

    Its output for a resized patch equals that of the old kernel for the original patch.
    """
    old = (kernel.shape[-2], kernel.shape[-1])
    if old == new:
        return kernel
    basis = torch.eye(old[0] * old[1]).view(-1, 1, *old)
    resize = F.interpolate(basis, size=new, mode="bicubic", antialias=True).flatten(1).T  # [new, old]
    back = torch.linalg.pinv(resize).T.to(kernel.device)
    return (kernel.float().flatten(2) @ back.T).view(*kernel.shape[:2], *new).to(kernel.dtype)


def adapt_channels(kernel: Tensor, channels: int) -> Tensor:
    """Adapt a kernel [D, C, h, w] to another number of channels: summed for one, else repeated and rescaled."""
    old = kernel.shape[1]
    if channels == old:
        return kernel
    if channels == 1:
        return kernel.float().sum(1, keepdim=True).to(kernel.dtype)
    repeats = -(-channels // old)
    repeated = kernel.float().repeat(1, repeats, 1, 1)[:, :channels] * (old / channels)
    return repeated.to(kernel.dtype)
