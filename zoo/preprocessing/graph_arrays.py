"""The arrays of a graph as tensors, checked."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_numbers(values: Any, name: str) -> Tensor:
    """The tensor of a tensor, an array or lists. Raises ValueError for anything but numbers."""
    if isinstance(values, Tensor):
        return values
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as numbers: {error}") from None
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{name} is {list(array.shape)} of {array.dtype}: expected numbers")
    return torch.as_tensor(array)


def as_features(values: Any, name: str, expected: str) -> Tensor:
    """float32 [rows, columns]. Raises ValueError for other shapes and for numbers that are not finite."""
    x = as_numbers(values, name)
    if x.ndim != 2 or x.is_complex():
        raise ValueError(f"{name} is {list(x.shape)} of {x.dtype}: expected numbers {expected}")
    x = x.detach().float()
    if bad := int((~x.isfinite()).any(1).sum()):
        first = int((~x.isfinite()).any(1).nonzero()[0])
        raise ValueError(f"{name} has NaN or infinite numbers in {bad} of {len(x)} rows, first in row {first}")
    return x


def as_integers(values: Any, name: str) -> Tensor:
    """int64. Raises ValueError for numbers that are not integers."""
    x = as_numbers(values, name)
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise ValueError(f"{name} has the type {x.dtype}: expected integers")
    return x.detach().long()


def as_edges(values: Any, nodes: int) -> Tensor:
    """edge_index int64 [2, E]. Raises ValueError for other shapes and types, and for nodes that are not there."""
    x = as_numbers(values, "edge_index")
    if not x.numel():
        return torch.empty(2, 0, dtype=torch.long)
    if x.ndim != 2 or len(x) != 2:
        hint = ": transpose it" if x.ndim == 2 and x.shape[1] == 2 else ""
        raise ValueError(f"edge_index is {list(x.shape)}: expected [2, E], sources and targets{hint}")
    x = as_integers(x, "edge_index")
    outside = (x < 0) | (x >= nodes)
    if outside.any():
        edge = int(outside.any(0).nonzero()[0])
        raise ValueError(f"edge {edge} goes from node {int(x[0, edge])} to node {int(x[1, edge])}: expected numbers of "
                         f"nodes from 0 to {nodes - 1}, as node_features has {nodes} rows")  # fmt: skip
    return x


def as_node_mask(values: Any, nodes: int, name: str) -> Tensor:
    """bool [N], of such a mask or of the numbers of nodes. Raises ValueError for nodes that are not there."""
    x = as_numbers(values, f"the part {name!r}")
    if x.dtype == torch.bool:
        if x.shape != (nodes,):
            hint = f"; it has {x.shape[1]} splits: choose one, mask[:, 0]" if x.shape[:1] == (nodes,) else ""
            raise ValueError(f"the part {name!r} is {list(x.shape)}: expected [{nodes}], or the numbers of its "
                             f"nodes{hint}")  # fmt: skip
        return x
    numbers = as_integers(x.reshape(-1), f"the part {name!r}")
    if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < nodes:
        raise ValueError(f"the part {name!r} has the nodes {int(numbers.min())} to {int(numbers.max())}: expected "
                         f"numbers from 0 to {nodes - 1}")  # fmt: skip
    mask = torch.zeros(nodes, dtype=torch.bool)
    mask[numbers] = True
    return mask
