"""A moving average of the weights, kept as a second model beside the first.

Lightning's `EMAWeightAveraging` swaps the averaged weights into the model for every validation (three copies of all
weights each way), averages the task's metrics too and cannot shard. A second model in the task's own state dict is
evaluated as it stands, saved and resumed bit for bit like any other weight, and sharded like the first.
"""

import copy

import torch
from torch import Tensor, nn


def averaged_copy(model: nn.Module) -> nn.Module:
    """A copy that nothing trains."""
    return copy.deepcopy(model).requires_grad_(False).eval()


class EMA:
    """Keeps an average in step with its model. Made once both are where they stay: sharding replaces parameters."""

    def __init__(self, average: nn.Module, model: nn.Module, decay: float):
        pairs = list(zip(average.parameters(), model.parameters(), strict=True))
        self.decay = decay
        self.own: list[Tensor] = [a for a, m in pairs if m.requires_grad]
        self.theirs: list[Tensor] = [m for _, m in pairs if m.requires_grad]
        self.buffers = list(zip(average.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """average <- d * average + (1 - d) * model, with d = min(decay, (1 + step) / (10 + step)).

        The smaller d of the first steps lets go of the initial weights. Buffers are copied: they are no weights.

        Args:
            step: The optimizer step just taken, from 0.
        """
        torch._foreach_lerp_(self.own, self.theirs, 1.0 - min(self.decay, (1 + step) / (10 + step)))
        for mine, other in self.buffers:
            mine.copy_(other)
