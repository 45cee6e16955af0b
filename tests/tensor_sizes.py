"""Counts the elements of all tensors that operations make."""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorSizes(TorchDispatchMode):
    """Within it, `largest` is the number of elements of the largest tensor in memory, and `total` that of all tensors
    that operations made. Views are not counted, and of operations in place what they read beside their result."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.by_operation: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return self.by_operation.total()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        memory = {x.untyped_storage().data_ptr() for x in given}
        for tensor in (x for x in tree_leaves(result) if isinstance(x, torch.Tensor)):
            own = tensor.untyped_storage()
            self.largest = max(self.largest, own.nbytes() // tensor.element_size())
            if own.data_ptr() not in memory:
                self.by_operation[str(function)] += tensor.numel()
            elif function._schema.is_mutable:
                others = (x.numel() for x in given if x.untyped_storage().data_ptr() != own.data_ptr())
                self.by_operation[str(function)] += max(others, default=tensor.numel())
        return result
