"""Resize image weights to another config: position table, patch kernel and input channels.

Patch kernels and channels are adapted as timm does, position tables as the library of the file does.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.frontends.image import PatchEmbedding, adapt_channels, resample_grid, resample_kernel


def fit_patches(tensors: dict[str, Tensor], old: nn.Module, new: nn.Module) -> list[str]:
    """Resample the tensors of the image front ends of `old` for `new`, in place. Returns the names that changed.

    tensors: the state dict of `old`; both models may be on the meta device. `new` is of the same family, with another
    image size, patch size, number of channels, or number of prefix rows in its position table.
    """
    changed = []
    for path, ours, theirs in _front_ends(old, new):
        for name, tensor in _resampled(tensors, path, ours, theirs):
            if tensor is not tensors[name]:
                tensors[name] = tensor
                changed.append(name)
    return changed


def _front_ends(old: nn.Module, new: nn.Module) -> Iterator[tuple[str, PatchEmbedding, PatchEmbedding]]:
    after = dict(new.named_modules())
    for path, module in old.named_modules():
        if isinstance(module, PatchEmbedding) and isinstance(theirs := after.get(path), PatchEmbedding):
            yield f"{path}.", module, theirs


def _resampled(
    tensors: dict[str, Tensor], path: str, old: PatchEmbedding, new: PatchEmbedding
) -> Iterator[tuple[str, Tensor]]:
    kernel = f"{path}proj.weight" if isinstance(old.proj, nn.Conv2d) else f"{path}proj.0.weight"
    if kernel in tensors:
        weight = adapt_channels(tensors[kernel], new.in_chans)
        yield kernel, resample_kernel(weight, new.patch_size) if isinstance(old.proj, nn.Conv2d) else weight
    table, rows = tensors[f"{path}positions"], old.position_prefix
    prefix, grid = table[:rows], resample_grid(table[rows:], old.grid, new.grid, old.antialias)
    if new.position_prefix != rows:
        prefix, tokens = _move_prefix(tensors, path, prefix, new.position_prefix)
        yield from tokens.items()
    if old.grid != new.grid or new.position_prefix != rows:
        yield f"{path}positions", torch.cat([prefix, grid])


def _move_prefix(tensors: dict[str, Tensor], path: str, rows: Tensor, count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Position rows for another number of prefix tokens, with equal outputs: surplus rows are added to their tokens,
    missing rows are zero."""
    tokens: dict[str, Tensor] = {}
    at = 0
    for name in (f"{path}cls", f"{path}dist", f"{path}registers"):
        if (token := tensors.get(name)) is None:
            continue
        own = 1 if token.ndim == 1 else len(token)
        surplus = F.pad(rows, (0, 0, 0, max(at + own - len(rows), 0)))[at : at + own].clone()
        surplus[: max(count - at, 0)] = 0
        if surplus.any():
            tokens[name] = token + surplus.view(token.shape)
        at += own
    return F.pad(rows, (0, 0, 0, max(count - len(rows), 0)))[:count], tokens
