"""The memory of all tensors that are alive, measured at each operation of a real step."""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Follows the storages of tensors that operations read and write, also those that are resized, as by FSDP2.

    peak: most bytes at one time, counted after each operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, int] = {}  # address of a storage -> weak pointer to it
        self.peak, self.now, self.at = 0, 0, ""
        self.stepping = False  # set during the step of an optimizer, whose tensors may be in another memory

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        self.follow(result, args, kwargs)
        self.count(str(func))
        return result

    def follow(self, *values: Any) -> set[int]:
        """Follow the storages of these tensors; returns their addresses."""
        found = set()
        for value in tree_leaves(values):
            if isinstance(value, Tensor):
                value = value.to_local() if isinstance(value, DTensor) else value
                storage = value.untyped_storage()
                self.storages[storage._cdata] = storage._weak_ref()
                found.add(storage._cdata)
        return found

    def sizes(self) -> dict[int, int]:
        """Bytes of each storage that is alive, by address."""
        found = {}
        for key, pointer in list(self.storages.items()):
            storage = torch.UntypedStorage._new_with_weak_ptr(pointer)
            if storage is None:
                torch.UntypedStorage._free_weak_ref(self.storages.pop(key))
            else:
                found[key] = storage.nbytes()
        return found

    def count(self, name: str) -> None:
        self.note(sum(self.sizes().values()), name)

    def note(self, total: int, name: str) -> None:
        """Note the bytes after an operation."""
        self.now = total
        if total > self.peak:
            self.peak, self.at = total, name


def storage_key(tensor: Tensor) -> int:
    """The address of the storage of a tensor."""
    return int(tensor.untyped_storage()._cdata)
