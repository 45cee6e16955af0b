"""A moving average of the weights, kept as a second model beside the first.

Lightning's `EMAWeightAveraging` swaps the averaged weights into the model for every validation (three copies of all
weights each way), averages the task's metrics too and cannot shard. A second model in the task's own state dict is
evaluated as it stands, saved and resumed bit for bit like any other weight, and sharded like the first.
"""

import copy

import torch
from torch import nn


def averaged_copy(model: nn.Module) -> nn.Module:
    """A copy that nothing trains."""
    return copy.deepcopy(model).requires_grad_(False).eval()


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """average <- d * average + (1 - d) * model, with d = min(decay, (1 + step) / (10 + step)).

    The smaller d of the first steps lets go of the initial weights. Buffers are copied: they are no weights.

    Args:
        step: The optimizer step just taken, from 0.
    """
    weight = 1.0 - min(decay, (1 + step) / (10 + step))
    pairs = [(a, m) for a, m in zip(average.parameters(), model.parameters(), strict=True) if m.requires_grad]
    torch._foreach_lerp_([a for a, _ in pairs], [m for _, m in pairs], weight)
    for a, m in zip(average.buffers(), model.buffers(), strict=True):
        a.copy_(m)
