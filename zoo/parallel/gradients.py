"""The norm of gradients that processes divide, from the parts that each of them holds.

torch's own functions do the same through DTensor, whose first call takes seconds for each layout of three dimensions.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from zoo.parallel.collectives import all_reduce


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all gradients, the same in all processes that hold parts of them."""
    if not any(isinstance(gradient, DTensor) for gradient in gradients):
        return nn.utils.get_total_norm(gradients)
    alike: dict[tuple[tuple[DeviceMesh, int], ...], list[Tensor]] = {}  # divided along the same dimensions of a mesh
    for gradient in gradients:
        divided: list[tuple[DeviceMesh, int]] = []
        if isinstance(gradient, DTensor):
            mesh = gradient.device_mesh
            divided = [(mesh, i) for i, place in enumerate(gradient.placements) if not place.is_replicate()]
        alike.setdefault(tuple(divided), []).append(local(gradient))
    total = local(gradients[0]).new_zeros((), dtype=torch.promote_types(gradients[0].dtype, torch.float32))
    for key, parts in alike.items():
        norms = torch._foreach_norm([x for x in parts if x.numel()] or [total])
        square = torch.stack(norms).to(total.dtype).square().sum()
        for mesh, dim in key:
            square = all_reduce(square, mesh.get_group(dim))
        total = total + square
    return total.sqrt()


@torch.no_grad()
def clip_by_norm(parameters: Iterable[nn.Parameter], most: float, norm: Tensor) -> None:
    """Scale the gradients of parameters, whose norm is `norm`, down to the norm `most` where it is greater."""
    held = [local(p.grad) for p in parameters if p.grad is not None]
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    if held := [x for x in held if x.numel()]:  # a process may have no part of any
        torch._foreach_mul_(held, factor)
