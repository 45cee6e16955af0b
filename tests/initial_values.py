"""Initial values of large tensors are drawn once in a run of the tests: many tests make the same small models.

Each is a function of the state of its generator, its shape and its deviation (`zoo.nn.init`), and most of the time that
a model with a vocabulary of 30,000 takes to make is spent on drawing them.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

SMALLEST, LARGEST, KEPT = 2**18, 2**23, 16  # numbers of a tensor, and how many tensors
DRAW = torch.nn.init.trunc_normal_
DRAWN: OrderedDict[Any, tuple[Tensor, Tensor]] = OrderedDict()


def trunc_normal_(tensor: Tensor, *limits: float, generator: torch.Generator | None = None, **named: float) -> Tensor:
    """As torch's, from what an equal call has drawn; leaves the generator as torch does."""
    plain = generator is not None and tensor.device.type == "cpu" and tensor.is_contiguous() and not named
    if not plain or not SMALLEST <= tensor.numel() <= LARGEST:
        return DRAW(tensor, *limits, generator=generator, **named)
    key = generator.get_state().numpy().tobytes(), tensor.shape, tensor.dtype, limits
    if key not in DRAWN:
        DRAW(tensor, *limits, generator=generator)
        DRAWN[key] = tensor.detach().clone(), generator.get_state()
        if len(DRAWN) > KEPT:
            DRAWN.popitem(last=False)
        return tensor
    DRAWN.move_to_end(key)
    values, state = DRAWN[key]
    generator.set_state(state)
    with torch.no_grad():
        return tensor.copy_(values)
