"""Linear layers of the many tokens of a prompt or a source, by oneDNN from the weights as they are.

MKL, which computes `F.linear`, has 80 to 90 GF/s here, oneDNN about 100, although it reorders the weight in each call.
Ratios for 1,024 rows in float32 (AMD EPYC Zen 4, one thread, torch 2.12.1): 512 -> 512 1.14x, 512 -> 2048 1.21x,
768 -> 3072 1.37x, 3072 -> 768 1.13x; for 64 rows 0.98x to 1.21x.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.inference.packed_linear import onednn_dtypes
from zoo.models.base import Model
from zoo.utils.cpu_features import is_intel

LEAST_ROWS, LEAST_WEIGHT = 128, 1 << 16  # of a product that is faster by oneDNN


class OneDNNProducts(TorchFunctionMode):
    """Products of many rows, in float32 on a CPU, by oneDNN."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is F.linear and not kwargs and is_large(*args):
            x, weight, *bias = args
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias[0] if bias else None, "none", [], "")
        return func(*args, **(kwargs or {}))


def is_large(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether a product is one of many rows and of plain tensors in float32 on a CPU."""
    plain = type(x) is Tensor and all(t is None or type(t) in (Tensor, nn.Parameter) for t in (weight, bias))
    if not plain or weight.numel() < LEAST_WEIGHT or x.numel() < LEAST_ROWS * x.shape[-1]:
        return False
    on_cpu = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    return on_cpu and x.is_contiguous() and weight.is_contiguous()


def products_of_prompts(model: Model, tokens: int) -> AbstractContextManager[Any]:
    """A context in which a model reads so many tokens, without gradients, by the faster products where there are any.

    Compiled modules are computed as they were compiled, and on a CPU of Intel the products of MKL are not replaced.
    """
    few = tokens < LEAST_ROWS or model.device.type != "cpu" or model.dtype != torch.float32
    if few or is_intel() or torch.is_autocast_enabled("cpu") or torch.float32 not in onednn_dtypes():
        return nullcontext()
    is_compiled = any(module._compiled_call_impl is not None for module in model.modules())
    return nullcontext() if is_compiled else OneDNNProducts()
