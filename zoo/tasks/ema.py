"""Exponential moving average (EMA) of the weights, kept as a second model.

Lightning's `EMAWeightAveraging` swaps the averaged weights into the model for every validation (three copies of all
weights each way), also averages the task's metrics, and does not support sharding. A second model in the task's state
dict is evaluated directly, saved and resumed bit for bit like any other weight, and sharded like the first.
"""

import copy

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def averaged_copy(model: nn.Module) -> nn.Module:
    """A copy of a model in eval mode whose parameters need no gradient."""
    return copy.deepcopy(model).requires_grad_(False).eval()


class EMA:
    """Updates an averaged model. Create it after placing and sharding both models: sharding replaces parameters."""

    def __init__(self, average: nn.Module, model: nn.Module, decay: float):
        pairs = list(zip(average.parameters(), model.parameters(), strict=True))
        self.decay = decay
        self.averaged: list[Tensor] = [a for a, m in pairs if m.requires_grad]
        self.trained: list[Tensor] = [m for _, m in pairs if m.requires_grad]
        self.buffers = list(zip(average.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self, step: int, taken: Tensor | None = None) -> None:
        """average <- d * average + (1 - d) * model, with d = min(decay, (1 + step) / (10 + step)).

        The smaller d of the first steps quickly forgets the initial weights. Buffers are copied, not averaged.

        Args:
            step: The optimizer step just taken, from 0.
            taken: A boolean scalar on the device of the weights; False leaves the average as it is, because the step
                was skipped. A tensor, so that nothing waits for the device. Default: True.
        """
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        averaged, trained = list(map(_local, self.averaged)), list(map(_local, self.trained))
        if taken is None:
            taken = torch.ones((), dtype=torch.bool, device=averaged[0].device)
        for dtype in {x.dtype for x in averaged}:
            pairs = [(a, m) for a, m in zip(averaged, trained, strict=True) if a.dtype == dtype]
            _move(pairs, taken.to(dtype) * weight, fused=averaged[0].is_cuda)
        for kept, latest in self.buffers:
            kept.copy_(torch.where(taken, latest, kept))


def _move(pairs: list[tuple[Tensor, Tensor]], weight: Tensor, *, fused: bool) -> None:
    """a <- a + weight * (m - a) for each pair (a, m) of one dtype; weight: a scalar tensor.

    fused: in a few kernels for all tensors, which `_foreach_lerp_` does not have for a tensor as weight.
    """
    averaged, trained = [a for a, _ in pairs], [m for _, m in pairs]
    if fused:
        difference = torch._foreach_sub(trained, averaged)
        torch._foreach_mul_(difference, weight)
        torch._foreach_add_(averaged, difference)
    else:
        torch._foreach_lerp_(averaged, trained, [weight] * len(averaged))


def _local(tensor: Tensor) -> Tensor:
    """The shard of a tensor that is on this device."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
