"""Autocast of meta tensors, for which torch has none.

Products and attention of float32 values are computed in bfloat16; on a GPU, norms, softmax and losses of bfloat16
values in float32. A weight is cast once in a forward pass, and its copy is there until the backward pass of the
products that need it (https://docs.pytorch.org/docs/stable/amp.html#autocast-op-reference).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from zoo.nn.stack import Stack

HALF = frozenset({
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, torch.conv1d, torch.conv2d,
    torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum, Tensor.matmul, Tensor.mm, Tensor.bmm,
    Tensor.__matmul__, Tensor.__rmatmul__, Tensor.baddbmm,
})  # fmt: skip
WIDE_ON_GPU = frozenset({
    F.layer_norm, torch.layer_norm, F.group_norm, torch.group_norm, F.softmax, torch.softmax, Tensor.softmax,
    F.log_softmax, torch.log_softmax, Tensor.log_softmax, F.cross_entropy, F.nll_loss, F.mse_loss, torch.exp,
    Tensor.exp, torch.log, Tensor.log, torch.pow, Tensor.pow, torch.rsqrt, Tensor.rsqrt, torch.sum, Tensor.sum,
    torch.cumsum, Tensor.cumsum, torch.norm, Tensor.norm, F.softplus,
})  # fmt: skip


class MetaAutocast(TorchFunctionMode):
    """Casts the inputs of functions as `torch.autocast` to bfloat16 does. on_gpu: as on a GPU, else as on a CPU."""

    def __init__(self, on_gpu: bool) -> None:
        super().__init__()
        self.wide = WIDE_ON_GPU if on_gpu else frozenset()
        self.enabled, self.forward, self.run_backward = True, True, torch.autograd.backward
        self.copies: dict[int, tuple[Tensor, Tensor]] = {}  # id of a weight -> the weight, and its copy

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self.enabled and func in HALF:
            args, kwargs = tree_map_only(Tensor, self.half, (args, kwargs))
        elif self.enabled and func in self.wide:
            args, kwargs = tree_map_only(Tensor, wide, (args, kwargs))
        return func(*args, **kwargs)

    def half(self, x: Tensor) -> Tensor:
        """A value in bfloat16."""
        if x.dtype != torch.float32 or not self.enabled:
            return x
        if not (self.forward and isinstance(x, nn.Parameter) and x.requires_grad):
            return x.to(torch.bfloat16)
        if id(x) not in self.copies:
            self.copies[id(x)] = x, x.to(torch.bfloat16)
        return self.copies[id(x)][1]

    def backward(self, *args: Any, **options: Any) -> None:
        """`torch.autograd.backward`, before which the context of a run ends, and forgets the copies of weights."""
        self.forward = False
        self.copies.clear()
        self.run_backward(*args, **options)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Context without casts."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before


def wide(x: Tensor) -> Tensor:
    """A value in float32, if it is in bfloat16."""
    return x.float() if x.dtype == torch.bfloat16 else x


@contextmanager
def meta_autocast(enabled: bool, on_gpu: bool, model: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """Context in which a model on the meta device computes by autocast, if enabled; gives what casts the inputs of
    attention."""
    if not enabled:
        with patch.object(torch, "is_autocast_enabled", lambda *device: False):  # of meta it is an error
            yield lambda x: x
        return
    mode, of_devices = MetaAutocast(on_gpu), torch.autocast

    def autocast(device_type: str, *args: Any, **options: Any) -> AbstractContextManager[Any]:
        if device_type != "meta":
            return of_devices(device_type, *args, **options)
        return nullcontext() if options.get("enabled", True) else mode.off()

    for stack in model.modules():
        if isinstance(stack, Stack):
            again = partial(_contexts, stack.keeps.get("context_fn"), mode)
            stack.keeps = {**stack.keeps, "context_fn": again}
    with (
        patch.object(torch, "is_autocast_enabled", lambda *device: mode.enabled),
        patch.object(torch, "get_autocast_dtype", lambda *device: torch.bfloat16),
        patch.object(torch, "autocast", autocast),
        patch.object(torch.autograd, "backward", mode.backward),
        mode,
    ):
        yield mode.half


def _contexts(given: Callable[[], Any] | None, mode: MetaAutocast) -> tuple[Any, Any]:
    """The contexts of the forward pass of a block and of its second one, in which modes of functions are off."""
    first, second = (nullcontext(), nullcontext()) if given is None else given()
    return first, _both(second, mode)


@contextmanager
def _both(one: Any, other: Any) -> Iterator[None]:
    with one, other:
        yield
