"""A GPU that is not there, on which everything raises for which the host would wait.

`FakeTensorMode` computes shapes, dtypes and devices without data, also of CUDA tensors on a machine without a GPU. What
needs the data raises there: `.item()`, `if tensor:`, `nonzero`, `unique`, indexing with a bool tensor. `Watch` adds the
copies between the host and the device that are not `non_blocking`, such as `torch.tensor(..., device="cuda")`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.nn import kernels

aten = torch.ops.aten
H100 = kernels.Capabilities("cuda", (9, 0), kernels.TORCH)


class HostWait(AssertionError):
    """The host would wait for the GPU."""


class Watch(TorchDispatchMode):
    """Raises HostWait for copies that block, but for those of the first batch."""

    first_batch = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.first_batch:
            return func(*args, **kwargs)
        if func is aten._to_copy.default and not kwargs.get("non_blocking"):
            target = torch.device(kwargs.get("device") or args[0].device)
            if target.type != args[0].device.type:
                raise HostWait(f"a blocking copy {list(args[0].shape)} from {args[0].device} to {target}")
        if func is aten.copy_.default:  # a number is written by a kernel
            to, source, *rest = args
            blocks = source.ndim and not (rest[0] if rest else kwargs.get("non_blocking"))
            if blocks and to.device.type != source.device.type:
                raise HostWait(f"a blocking copy {list(source.shape)} from {source.device} to {to.device}")
        indices = args[1] if func is aten.index.Tensor and args[0].is_cuda else ()
        if any(isinstance(index, Tensor) and not index.is_cuda for index in indices):
            raise HostWait("an index on the host for a tensor on the GPU")
        return func(*args, **kwargs)


@contextmanager
def fake_gpu() -> Iterator[Watch]:
    """Context in which tensors are without data, and what the host would wait for raises."""
    records = {torch.device("cuda", 0): H100, torch.device("cuda"): H100}
    with mock.patch.dict(kernels.RECORDS, records), FakeTensorMode(allow_non_fake_inputs=True), Watch() as watch:
        yield watch


def on_fake_gpu(model: nn.Module) -> nn.Module:
    """Move a model to the fake GPU in place; what is checked in the first batch on a GPU counts as checked."""
    moved: dict[int, Tensor] = {}
    for module in model.modules():
        for entries in (module._parameters, module._buffers):
            for name, value in entries.items():
                if value is not None and id(value) not in moved:
                    data = torch.empty(value.shape, dtype=value.dtype, device="cuda")
                    moved[id(value)] = (
                        nn.Parameter(data, value.requires_grad) if entries is module._parameters else data
                    )
                entries[name] = None if value is None else moved[id(value)]  # type: ignore[assignment]
        for name in (
            "ids_checked",
            "range_checked",
            "mask_checked",
            "lengths_checked",
            "ends_checked",
            "_labels_checked",
        ):
            if hasattr(module, name):
                setattr(module, name, True)
    return model


def fake_batch(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch whose tensors are on the fake GPU, as Lightning moves it there: lists stay on the host."""
    return {name: torch.empty(x.shape, dtype=x.dtype, device="cuda") if isinstance(x, Tensor) else x
            for name, x in batch.items()}  # fmt: skip
