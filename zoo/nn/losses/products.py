"""Matrix products in half precision whose sums are in float32."""

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def product_dtype(*inputs: Tensor) -> torch.dtype:
    """The dtype of products of these inputs: that of autocast where it is on, else the widest of the inputs.

    Autocast does not narrow float64.
    """
    dtype, device = inputs[0].dtype, inputs[0].device.type
    for x in inputs[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    if dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return dtype


def product(a: Tensor, b: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """a @ b, and plus a scalar bias; in float32, where it is also summed, for factors in half precision."""
    if a.dtype not in HALF:
        return torch.mm(a, b, out=out) if bias is None else torch.addmm(bias, a, b)
    if a.is_cuda:
        y = torch.mm(a, b, out_dtype=torch.float32)
    else:  # the same numbers, for tests
        y = a.float() @ b.float()
    if bias is not None:
        y += bias
    return y if out is None else out.copy_(y)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b in place, summed in the dtype of `total`: float32 for factors in half precision."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif a.is_cuda and a.dtype in HALF and total.dtype == torch.float32:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total += product(a, b)
