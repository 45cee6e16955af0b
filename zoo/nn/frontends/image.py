"""Images to tokens: patches or a convolutional stem, prefix tokens, learned positions."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.init import Initializer, normal_, trunc_normal_

Stem = Literal["patch", "conv"]


class PatchEmbedding(nn.Module):
    """pixels [B, C, H, W] -> tokens [B, prefix + rows * columns, D]: class, distillation or registers, patches.

    stem: "patch", one linear map per patch (Dosovitskiy et al. 2021), or "conv", 3 x 3 convolutions of stride 2 in its
    place (Xiao et al. 2021; group norm instead of batch norm, so that no row of a batch depends on another).
    position_prefix: how many of the prefix tokens own a row of the position table, from the first one on.
    norm: applied to all tokens; the linear map of the patches then has no bias.
    stride: from one patch to the next, where patches overlap; what is left at the far edges is not looked at.
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
    ) -> None:
        super().__init__()
        self.image_size, self.patch_size, self.in_chans = image_size, patch_size, in_chans
        self.stride = stride
        self.grid = self.grid_for(image_size)
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
            raise ValueError(f"position_prefix={position_prefix}: there are {self.prefix} prefix tokens")
        self.positions = nn.Parameter(torch.empty(self.position_prefix + self.grid[0] * self.grid[1], width))
        self.norm = norm
        self.looked = False  # at the range of the pixels, once

    def initialize(self, draw: Initializer) -> None:
        """timm's: class token nearly zero, positions a truncated normal."""
        for name, token in (("cls", self.cls), ("dist", self.dist), ("registers", self.registers)):
            if token is not None:
                normal_(token, 1e-6, draw(name))
        trunc_normal_(self.positions, 0.02, draw("positions"))

    def forward(self, pixels: Tensor, any_size: bool = False) -> Tensor:
        """any_size: pictures of another size than `image_size` are taken, too: the table of positions is resampled."""
        grid = self.grid
        if any_size and pixels.ndim == 4 and pixels.shape[2:] != self.image_size:
            grid = self.grid_for((pixels.shape[2], pixels.shape[3]))
        x = self.proj(self.checked(pixels, sized=grid == self.grid)).flatten(2).mT  # B D h w -> B N D
        x = x + resample_grid(self.positions[self.position_prefix :], self.grid, grid)
        if self.prefix:
            x = torch.cat([self.prefix_tokens().expand(len(x), -1, -1).to(x.dtype), x], 1)
        return x if self.norm is None else self.norm(x)

    def prefix_tokens(self) -> Tensor:
        """[1, prefix, D], positions added."""
        rows = [t.view(-1, t.shape[-1]) for t in (self.cls, self.dist, self.registers) if t is not None]
        tokens = torch.cat(rows)
        if self.position_prefix:
            placed = F.pad(self.positions[: self.position_prefix], (0, 0, 0, self.prefix - self.position_prefix))
            tokens = tokens + placed
        return tokens[None]

    def grid_for(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of patches of pictures of this size. Raises ValueError where patches do not divide it."""
        if self.stride is None:
            return grid_of(image_size, self.patch_size)
        return overlapping(image_size, self.patch_size, self.stride)

    def checked(self, pixels: Tensor, sized: bool = True) -> Tensor:
        """The pixels, refused where they cannot fit (sized: other sizes, too); odd ranges are told once."""
        if pixels.ndim != 4 or pixels.shape[1] != self.in_chans:
            raise ValueError(
                f"expected pixels [B, {self.in_chans}, {self.image_size[0]}, {self.image_size[1]}], given "
                f"{tuple(pixels.shape)}; for another number of channels pass in_chans= to create_model or load"
            )
        if sized and tuple(pixels.shape[2:]) != self.image_size:
            raise ValueError(
                f"the images are {pixels.shape[2]} x {pixels.shape[3]}, the model was built for {self.image_size[0]} x "
                f"{self.image_size[1]}; resize them (model.preprocess does) or give image_size= to create_model or load"
            )
        if not self.looked and not torch.compiler.is_compiling():
            self.looked = True
            warn_of_range(pixels)
        return pixels if pixels.is_floating_point() else pixels.to(self.positions.dtype)

    def extra_repr(self) -> str:
        return f"image_size={self.image_size}, patch_size={self.patch_size}, prefix={self.prefix}"


def warn_of_range(pixels: Tensor) -> None:
    """Say so when a batch cannot have been normalized; a meta tensor tells nothing."""
    if pixels.device.type == "meta" or pixels.numel() == 0:
        return
    what = None
    if not pixels.is_floating_point():
        what = f"integers ({pixels.dtype})"
    elif pixels.max() > 20:
        what = f"values up to {float(pixels.max()):.0f}, as bytes have"
    elif pixels.min() >= 0 and pixels.max() > 0:
        what = f"only values from {float(pixels.min()):.2g} to {float(pixels.max()):.2g}, as unnormalized images have"
    if what:
        warnings.warn(
            f"pixel_values holds {what}; models expect normalized floats. model.preprocess(images) makes them",
            stacklevel=6,
        )


def grid_of(image_size: tuple[int, int], patch_size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of patches; a size that the patch does not divide is an error, never a crop."""
    if any(side % patch for side, patch in zip(image_size, patch_size, strict=True)):
        near = tuple(max(patch, side // patch * patch) for side, patch in zip(image_size, patch_size, strict=True))
        raise ValueError(f"image_size={image_size} is no multiple of patch_size={patch_size}; the nearest is {near}")
    return image_size[0] // patch_size[0], image_size[1] // patch_size[1]


def resample_grid(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """A table of positions [h * w, D] over an old grid (rows, columns), for a new one: bicubic, with antialiasing."""
    if old == new:
        return positions
    image = positions.float().view(1, *old, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=new, mode="bicubic", antialias=True)
    return image.permute(0, 2, 3, 1).reshape(-1, positions.shape[-1]).to(positions.dtype)


def by_size(pictures: Sequence[Tensor], run: Callable[[Tensor], Tensor]) -> Tensor:
    """`run` on the pictures [C, H, W] of each size together, [B, C, H, W] -> [B, ...]; its answers in their order."""
    if not pictures:
        raise ValueError("no pictures given: expected a list of tensors [C, H, W]")
    if odd := [x for x in pictures if x.ndim != 3]:
        raise ValueError(f"expected a list of pictures [C, H, W], of any sizes; one of them is {tuple(odd[0].shape)}")
    sizes: dict[torch.Size, list[int]] = {}
    for i, picture in enumerate(pictures):
        sizes.setdefault(picture.shape, []).append(i)
    answers = torch.cat([run(torch.stack([pictures[i] for i in rows])) for rows in sizes.values()])
    order = torch.tensor([i for rows in sizes.values() for i in rows], device=answers.device)
    return answers[order.argsort()]


def overlapping(image_size: tuple[int, int], patch_size: tuple[int, int], stride: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of patches that begin every `stride`."""
    sides = list(zip(image_size, patch_size, stride, strict=True))
    if any(side < patch for side, patch, _ in sides):
        raise ValueError(f"a patch of {patch_size} does not fit into {image_size}: give a smaller patch_size=")
    rows, columns = ((side - patch) // step + 1 for side, patch, step in sides)
    return rows, columns


def conv_stem(in_chans: int, width: int, patch_size: tuple[int, int]) -> nn.Sequential:
    """3 x 3 convolutions of stride 2, channels doubling up to `width`, then 1 x 1: a patch becomes one token."""
    steps = int(math.log2(patch_size[0]))
    if patch_size[0] != patch_size[1] or 2**steps != patch_size[0] or steps == 0:
        raise ValueError(f"stem='conv' halves the image step by step: patch_size is 2, 4, 8 or 16, given {patch_size}")
    layers: list[nn.Module] = []
    before = in_chans
    for step in range(steps):
        channels = max(width // 2 ** (steps - 1 - step), 8)
        layers += [
            nn.Conv2d(before, channels, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(1, channels),
            nn.ReLU(),
        ]
        before = channels
    return nn.Sequential(*layers, nn.Conv2d(before, width, 1))


Size = tuple[int, int]


def resample_kernel(kernel: Tensor, new: Size) -> Tensor:
    """A patch kernel [D, C, h, w] for patches of another size, by FlexiViT's pseudo-inverse (Beyer et al. 2023, eq. 4).

    It answers to a resized patch as the old one did to the patch before.
    """
    old = (kernel.shape[-2], kernel.shape[-1])
    if old == new:
        return kernel
    basis = torch.eye(old[0] * old[1]).view(-1, 1, *old)
    resize = F.interpolate(basis, size=new, mode="bicubic", antialias=True).flatten(1).T  # [new, old]
    back = torch.linalg.pinv(resize).T.to(kernel.device)
    return (kernel.float().flatten(2) @ back.T).view(*kernel.shape[:2], *new).to(kernel.dtype)


def adapt_channels(kernel: Tensor, channels: int) -> Tensor:
    """A kernel [D, C, h, w] for another number of channels: summed to one, else repeated and scaled to keep the sum."""
    old = kernel.shape[1]
    if channels == old:
        return kernel
    if channels == 1:
        return kernel.float().sum(1, keepdim=True).to(kernel.dtype)
    repeats = -(-channels // old)
    wide = kernel.float().repeat(1, repeats, 1, 1)[:, :channels] * (old / channels)
    return wide.to(kernel.dtype)
