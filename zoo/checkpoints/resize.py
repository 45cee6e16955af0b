"""Image weights for other sizes: positions, patch kernels and input channels, fitted as timm does."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.frontends.image import PatchEmbedding, adapt_channels, resample_grid, resample_kernel


def fit_patches(tensors: dict[str, Tensor], old: nn.Module, new: nn.Module) -> list[str]:
    """Fit the tensors of every image front end of `old` to that of `new`, in place. Returns the names that changed.

    tensors: the state of `old`, whose own tensors may be on meta; `new` is the same family with another image size,
    patch size, channel count, or other rows in its position table.
    """
    changed = []
    for path, ours, theirs in _front_ends(old, new):
        for name, tensor in _fitted(tensors, path, ours, theirs):
            if tensor is not tensors[name]:
                tensors[name] = tensor
                changed.append(name)
    return changed


def _front_ends(old: nn.Module, new: nn.Module) -> Iterator[tuple[str, PatchEmbedding, PatchEmbedding]]:
    after = dict(new.named_modules())
    for path, module in old.named_modules():
        if isinstance(module, PatchEmbedding) and isinstance(theirs := after.get(path), PatchEmbedding):
            yield f"{path}.", module, theirs


def _fitted(
    tensors: dict[str, Tensor], path: str, old: PatchEmbedding, new: PatchEmbedding
) -> Iterator[tuple[str, Tensor]]:
    kernel = f"{path}proj.weight" if isinstance(old.proj, nn.Conv2d) else f"{path}proj.0.weight"
    if kernel in tensors:
        weight = adapt_channels(tensors[kernel], new.in_chans)
        yield kernel, resample_kernel(weight, new.patch_size) if isinstance(old.proj, nn.Conv2d) else weight
    table, rows = tensors[f"{path}positions"], old.position_prefix
    prefix, grid = table[:rows], resample_grid(table[rows:], old.grid, new.grid)
    if new.position_prefix != rows:
        prefix, tokens = _move_prefix(tensors, path, prefix, new.position_prefix)
        yield from tokens.items()
    if old.grid != new.grid or new.position_prefix != rows:
        yield f"{path}positions", torch.cat([prefix, grid])


def _move_prefix(tensors: dict[str, Tensor], path: str, rows: Tensor, want: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Other rows for prefix tokens, the sums unchanged: rows too many are added to their tokens, new ones are zero."""
    tokens: dict[str, Tensor] = {}
    at = 0
    for name in (f"{path}cls", f"{path}dist", f"{path}registers"):
        if (token := tensors.get(name)) is None:
            continue
        count = 1 if token.ndim == 1 else len(token)
        surplus = F.pad(rows, (0, 0, 0, max(at + count - len(rows), 0)))[at : at + count].clone()
        surplus[: max(want - at, 0)] = 0
        if surplus.any():
            tokens[name] = token + surplus.view(token.shape)
        at += count
    return F.pad(rows, (0, 0, 0, max(want - len(rows), 0)))[:want], tokens
