"""Linear layers with constant weights, packed for the kernels of oneDNN; the parts of `zoo.optimize` that multiply."""

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.mlp import MLP

Rows = Literal["many", "one"]
# With fewer weights than this, calling oneDNN in float32 costs more than it saves. For single rows the limit is higher:
# only larger layers are read from memory, where the blocked layout is fastest.
SMALL = {"many": 1 << 16, "one": 1 << 19}
# The number of rows for which oneDNN chooses a layout. Smaller values give a slower layout, even for one row.
ROWS = 1024
FUSED = {"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "silu": ("swish", ""), "relu": ("relu", "")}


def deep_copy(value: Any, memo: dict[int, Any]) -> Any:
    """`copy.deepcopy` of an object by its attributes."""
    memo[id(value)] = new = object.__new__(type(value))
    new.__dict__.update(copy.deepcopy(vars(value), memo))
    return new


class Packing:
    """Packs the weights of linear layers for a dtype and an expected number of rows, with oneDNN if available."""

    def __init__(self, dtype: torch.dtype | None, rows: Rows) -> None:
        self.dtype, self.rows = dtype, rows
        self.types = onednn_types()

    def __call__(self, weight: Tensor, bias: Tensor | None, act: str | None = None) -> "Packed":
        dtype = self.dtype or weight.dtype
        weight, bias = weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype)
        supported = weight.device.type == "cpu" and dtype in self.types
        small = dtype == torch.float32 and weight.numel() < SMALL[self.rows]
        if supported and not small:
            return OneDNN(weight, bias, act)
        columns = self.rows == "one" and weight.device.type == "cpu" and dtype == torch.float32
        return Columns(weight, bias, act) if columns else Packed(weight, bias, act)


def onednn_types() -> tuple[torch.dtype, ...]:
    """The dtypes for which oneDNN can reorder weights on this CPU; bfloat16 needs AVX-512 or newer instructions."""
    if not torch.backends.mkldnn.is_available():
        return ()
    bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (torch.float32, torch.bfloat16) if bfloat16 else (torch.float32,)


class Packed(nn.Module):
    """act(x W^T + b) with constant W, computed by torch."""

    def __init__(self, weight: Tensor, bias: Tensor | None, act: str | None) -> None:
        super().__init__()
        self.weight_, self.bias_, self.act_name = weight, bias, act
        self.act = None if act is None else MLP(1, 1, act).act

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        memo[id(self.weight_)] = self.weight_  # constant, and torch cannot copy the layout of oneDNN
        return deep_copy(self, memo)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight_, self.bias_)
        return y if self.act is None else self.act(y)


class Columns(Packed):
    """The weight is stored as [in, out], the order in which a single row reads it."""

    def __init__(self, weight: Tensor, bias: Tensor | None, act: str | None) -> None:
        super().__init__(weight.mT.contiguous().mT, bias, act)


class OneDNN(Packed):
    """The weight in the blocked layout of oneDNN, with the activation applied while the product is in the cache."""

    def __init__(self, weight: Tensor, bias: Tensor | None, act: str | None) -> None:
        fused = FUSED.get(act or "")
        blocked = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        super().__init__(blocked, bias, None if fused else act)
        self.post, self.algorithm = fused or ("none", "")

    def forward(self, x: Tensor) -> Tensor:
        y = torch.ops.mkldnn._linear_pointwise(x, self.weight_, self.bias_, self.post, [], self.algorithm)
        return y if self.act is None else self.act(y)
