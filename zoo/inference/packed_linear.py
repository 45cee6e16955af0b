"""Linear layers with constant weights, stored for several kernels: those that `zoo.optimize` chooses from."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.mlp import activation

Rows = Literal["many", "one"]
PACKED_FOR = 1024  # number of rows for which oneDNN chooses a layout; it computes other numbers of rows as well
CHUNK, LONGEST_CHUNKED = 64, 3072  # outputs of a chunk of a weight, and the most inputs
FUSED = {"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "silu": ("swish", ""), "relu": ("relu", "")}


def deep_copy(value: Any, memo: dict[int, Any]) -> Any:
    """`copy.deepcopy` of an object by its attributes."""
    memo[id(value)] = new = object.__new__(type(value))
    new.__dict__.update(copy.deepcopy(vars(value), memo))
    return new


def no_autocast(device: torch.device) -> torch.autocast:
    """A context without autocast: packed weights have one dtype, and the dtype of a model is that of zoo.optimize."""
    return torch.autocast(device.type if torch.amp.is_autocast_available(device.type) else "cpu", enabled=False)


class ConstantLinear(nn.Module):
    """act(x W^T + b) with constant W, computed by torch as in the model as created."""

    def __init__(self, weight: Tensor, bias: Tensor | None, act: str | None) -> None:
        super().__init__()
        self.weight_, self.bias_ = weight.detach(), None if bias is None else bias.detach()
        self.act = None if act is None else activation(act)

    @staticmethod
    def supports(weight: Tensor, act: str | None, rows: Rows) -> bool:
        """Whether this is a candidate for such a weight and activation, for "many" rows or "one"."""
        return True

    @property
    def weight(self) -> Tensor:
        """The weight [out, in] as in nn.Linear, for modules that read it."""
        return self.weight_.to_dense() if self.weight_.is_mkldnn else self.weight_

    @property
    def bias(self) -> Tensor | None:
        return self.bias_

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        for tensor in vars(self).values():  # constant, and torch cannot copy the layouts of oneDNN and MKL
            if isinstance(tensor, Tensor):
                memo[id(tensor)] = tensor
        return deep_copy(self, memo)

    def kernel(self) -> tuple[Any, dict[str, Any]]:
        """What computes x W^T + b, and its arguments after x, in order."""
        return F.linear, dict(weight=self.weight_, bias=self.bias_)

    def product(self) -> Callable[[Tensor], Tensor]:
        """`forward` without `act`, if possible as a call that enters no Python function, for each token."""
        kernel, constants = self.kernel()
        if type(self.weight_) is not Tensor:  # int8 weights of torchao do not take arguments by name
            return lambda x: kernel(x, *constants.values())
        return partial(getattr(kernel, "_op", kernel), **constants)  # torch.ops are Python objects around _op

    def forward(self, x: Tensor) -> Tensor:
        kernel, constants = self.kernel()
        y = kernel(x, *constants.values())
        return y if self.act is None else self.act(y)


class TransposedLinear(ConstantLinear):
    """The weight is stored as [in, out], the order in which a single row reads it."""

    def __init__(self, weight: Tensor, bias: Tensor | None, act: str | None) -> None:
        super().__init__(weight.detach().mT.contiguous().mT, bias, act)

    @staticmethod
    def supports(weight: Tensor, act: str | None, rows: Rows) -> bool:
        return rows == "one" and weight.device.type == "cpu"


class MKLLinear(ConstantLinear):
    """The weight in the packed layout of MKL for one row; for more rows as created."""

    def __init__(self, weight: Tensor, bias: Tensor | None, act: str | None) -> None:
        super().__init__(torch.ops.mkl._mkl_reorder_linear_weight(weight.detach().contiguous(), 1), bias, act)
        self.original = weight.detach()

    @property
    def weight(self) -> Tensor:
        return self.original

    @staticmethod
    def supports(weight: Tensor, act: str | None, rows: Rows) -> bool:
        return (
            rows == "one"
            and weight.device.type == "cpu"
            and weight.dtype == torch.float32
            and torch.backends.mkl.is_available()
            and hasattr(torch.ops.mkl, "_mkl_linear")
        )

    def kernel(self) -> tuple[Any, dict[str, Any]]:
        return torch.ops.mkl._mkl_linear, dict(MKL_W=self.weight_, ORI_W=self.original, B=self.bias_, batch_size=1)


class ChunkedLinear(ConstantLinear):
    """One row by `chunked_product`, which takes the weight as it is; more rows as created."""

    def __init__(self, weight: Tensor, bias: Tensor | None, act: str | None) -> None:
        super().__init__(weight, bias, act)
        self.chunks, self.rest = chunks_of(self.weight_)

    @staticmethod
    def supports(weight: Tensor, act: str | None, rows: Rows) -> bool:
        return rows == "one" and is_chunkable(weight)

    def kernel(self) -> tuple[Any, dict[str, Any]]:
        return self.by_rows, dict(chunks=self.chunks, rest=self.rest, bias=self.bias_)

    def by_rows(self, x: Tensor, chunks: Tensor, rest: Tensor | None, bias: Tensor | None) -> Tensor:
        if x.numel() != x.shape[-1]:
            return F.linear(x, self.weight_, bias)
        return chunked_product(x.view(1, -1), chunks, rest, bias).view(*x.shape[:-1], -1)


class OneDNNLinear(ConstantLinear):
    """The weight in the blocked layout of oneDNN, with the activation applied while the product is in the cache."""

    def __init__(self, weight: Tensor, bias: Tensor | None, act: str | None) -> None:
        fused = FUSED.get(act or "")
        blocked = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_FOR)
        super().__init__(blocked, bias, None if fused else act)
        self.post, self.algorithm = fused or ("none", "")

    @staticmethod
    def supports(weight: Tensor, act: str | None, rows: Rows) -> bool:
        return weight.device.type == "cpu" and weight.dtype in onednn_dtypes()

    def kernel(self) -> tuple[Any, dict[str, Any]]:
        activation = dict(attr=self.post, scalars=[], algorithm=self.algorithm)
        return torch.ops.mkldnn._linear_pointwise, dict(W=self.weight_, B=self.bias_, **activation)


class UnfusedOneDNNLinear(OneDNNLinear):
    """The same with the activation applied by torch, whose vectorized GELU is the faster one on some CPUs."""

    def __init__(self, weight: Tensor, bias: Tensor | None, act: str | None) -> None:
        super().__init__(weight, bias, None)
        self.act = None if act is None else activation(act)

    @staticmethod
    def supports(weight: Tensor, act: str | None, rows: Rows) -> bool:
        return act in FUSED and OneDNNLinear.supports(weight, act, rows)


class FusedActivationLinear(ConstantLinear):
    """GELU (its tanh form) or ReLU in the matrix product of cublasLt, on CUDA: `h` is written once, activated.

    At 50,432 rows, 768 -> 3072, bfloat16, on an H100: 0.395 ms, in two steps 0.569 ms.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, act: str | None) -> None:
        super().__init__(weight, bias, act)
        self.shift = weight.new_zeros(len(weight)) if self.bias_ is None else self.bias_  # cublasLt takes no None
        self.use_gelu = act == "gelu_tanh"

    @staticmethod
    def supports(weight: Tensor, act: str | None, rows: Rows) -> bool:
        dtypes = (torch.float32, torch.bfloat16, torch.float16)
        return weight.is_cuda and weight.dtype in dtypes and act in ("gelu_tanh", "relu")

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cuda:  # on a CPU, torch computes the exact GELU here
            return super().forward(x)
        y = torch._addmm_activation(self.shift, x.reshape(-1, x.shape[-1]), self.weight_.t(), use_gelu=self.use_gelu)
        return y.view(*x.shape[:-1], len(self.weight_))


class GatedLinear(ConstantLinear):
    """act(x G^T + b) * (x U^T + c) by one product: the first half of the weight [2 H, D] is G, the second U."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.act is not None
        gate, up = F.linear(x, self.weight_, self.bias_).chunk(2, -1)
        return self.act(gate) * up


def is_chunkable(weight: Tensor) -> bool:
    """Whether `chunked_product` may be faster than other products of one row. Longer rows of a weight are not."""
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkl.is_available()
    return on_cpu and weight.shape[0] >= CHUNK <= weight.shape[1] <= LONGEST_CHUNKED and weight.is_contiguous()


def chunks_of(weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """A weight [out, in] as chunks [n, 64, in] of its outputs and the rest [m, in], which share its memory."""
    whole = weight.shape[0] // CHUNK * CHUNK
    return weight[:whole].view(-1, CHUNK, weight.shape[1]), weight[whole:] if whole < weight.shape[0] else None


def chunked_product(
    x: Tensor,
    chunks: Tensor,
    rest: Tensor | None,
    bias: Tensor | None,
    several: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """x W^T + b for one row x [1, in] and W from `chunks_of`, by a batch of products with one column.

    several: what computes more rows than one, if there may be more.

    For these, MKL reads W about twice as fast as for one product with one row or column (AMD EPYC Zen 4, one thread,
    torch 2.12.1): 384 -> 1536 in 0.14 ms, by F.linear 0.30 ms; 768 -> 50257 in 8.5 ms, by F.linear 13.6 ms, by oneDNN
    11.3 ms; 4096 -> 4096 is slower. (The column has the strides of x.t(): MKL has another kernel for other ones.)
    """
    if several is not None and x.shape[0] > 1:
        return several(x)
    y = torch.bmm(chunks, x.t().expand(chunks.shape[0], -1, 1)).view(1, -1)
    if rest is not None:
        y = torch.cat([y, F.linear(x, rest)], 1)
    return y if bias is None else y.add_(bias)


def onednn_dtypes() -> tuple[torch.dtype, ...]:
    """The dtypes for which oneDNN can reorder weights on this CPU; bfloat16 needs AVX-512 or newer instructions."""
    if not torch.backends.mkldnn.is_available():
        return ()
    bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (torch.float32, torch.bfloat16) if bfloat16 else (torch.float32,)


# The kernels of a linear layer, in order of preference: of equally fast ones, the first is taken.
KERNELS: dict[str, type[ConstantLinear]] = {
    "plain": ConstantLinear,
    "transposed": TransposedLinear,
    "mkl": MKLLinear,
    "chunked": ChunkedLinear,
    "onednn": OneDNNLinear,
    "onednn_unfused": UnfusedOneDNNLinear,
    "cublaslt": FusedActivationLinear,
}


class ByRows(nn.Module):
    """One of two candidates, by the number of rows of the input."""

    def __init__(self, few: nn.Module, many: nn.Module, limit: int) -> None:
        super().__init__()
        self.few, self.many, self.limit = few, many, limit

    def forward(self, x: Tensor) -> Any:
        return self.few(x) if x.numel() < self.limit * x.shape[-1] else self.many(x)

    def extra_repr(self) -> str:
        return f"few: less than {self.limit} rows"
