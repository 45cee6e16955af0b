"""Learning rate schedule as a pure function of the step, so that resuming needs no scheduler state."""

import math


def warmup_cosine(step: int, *, steps: int, warmup: int = 0, final: float = 0.0) -> float:
    """Learning rate factor at a step: linear warm-up to 1, then cosine decay to `final`.

    Args:
        step: The optimizer step about to be taken, from 0.
        steps: Total number of steps; from the last one on the factor is `final`.
        warmup: Number of warm-up steps; the first has the factor 1/warmup, the one after warm-up has 1.
        final: Factor at the end.

    Source: Loshchilov and Hutter 2017, eq. 5 (one cycle), https://arxiv.org/abs/1608.03983.
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def cosine_between(step: float, steps: float, start: float, end: float) -> float:
    """A value that goes from `start` at step 0 to `end` at step `steps` along half a cosine, and stays there."""
    fraction = min(step / steps, 1.0) if steps > 0 else 1.0
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * fraction))


def inverse_sqrt(step: int, *, warmup: int) -> float:
    """Learning rate factor at a step: linear warm-up to 1, then the inverse square root of the step.

    Args:
        step: The optimizer step about to be taken, from 0.
        warmup: Number of warm-up steps, at least 1; the last one has the factor 1.

    Source: Vaswani et al. 2017, eq. 3, whose factor has the peak (width * warmup) ** -0.5,
    https://arxiv.org/abs/1706.03762.
    """
    return min((step + 1) / warmup, (warmup / (step + 1)) ** 0.5)
