"""Training with bfloat16 weights that are cast from float32 ones: those are updated, averaged, saved and resumed.

Autocast keeps norms and the sums of the residual stream in float32, and casts between them and the matrix products.
Here the whole forward and backward pass is in bfloat16, as with the `param_dtype` of FSDP; Lightning's "bf16-true" also
keeps the trained weights in bfloat16, in which small updates are rounded away.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.hooks import RemovableHandle


class BF16Weights:
    """Puts bfloat16 casts of the weights of a model in their place for one forward and backward pass.

    Autograd knows the casts: backward adds each gradient, in float32, to that of the float32 weight. So whatever looks
    at parameters and gradients (DDP, accumulation, clipping, the optimizer) has to do with float32 only. Scalars, such
    as a temperature, batch norms and buffers stay as they are.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._masters: list[tuple[dict[str, Any], str, nn.Parameter]] = []
        self._hook: RemovableHandle | None = None

    def compute(self, loss: Callable[..., Tensor], *args: Any) -> Tensor:
        """`loss(*args)` with bfloat16 weights and without autocast; call `restore` after its backward pass."""
        self._cast()
        try:
            with torch.autocast(next(self.model.parameters()).device.type, enabled=False):
                return loss(*args)
        except BaseException:
            self.restore()
            raise

    def _cast(self) -> None:
        self.restore()
        casts: dict[nn.Parameter, Tensor] = {}  # tied weights share one
        for module in self.model.modules():
            for name, weight in module._parameters.items() if not isinstance(module, _NormBase) else ():
                if weight is not None and weight.dtype == torch.float32 and weight.ndim:
                    if weight not in casts:
                        casts[weight] = weight.to(torch.bfloat16)
                    self._masters.append((module._parameters, name, weight))
        for table, name, weight in self._masters:
            table[name] = casts[weight]
        self._hook = self.model.register_forward_pre_hook(_cast_inputs, with_kwargs=True)

    def restore(self) -> None:
        """Put the float32 weights back. Recomputed activations need the others until the end of backward."""
        for table, name, weight in self._masters:
            table[name] = weight
        self._masters = []
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


def _cast_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The inputs of a model with float32 tensors cast to bfloat16."""
    return tuple(map(_cast_input, args)), {name: _cast_input(value) for name, value in kwargs.items()}


def _cast_input(value: Any) -> Any:
    return value.to(torch.bfloat16) if isinstance(value, Tensor) and value.dtype == torch.float32 else value
