"""The learning rate as a pure function of the step: a resumed run needs no state of it, only the step."""

import math


def warmup_cosine(step: int, *, steps: int, warmup: int = 0, final: float = 0.0) -> float:
    """Factor of the learning rate at a step: a line up to 1, then half a cosine down to `final`.

    Args:
        step: The optimizer step about to be taken, from 0.
        steps: All steps that are planned; from the last one on the factor is `final`.
        warmup: Steps of the rise; the first takes 1/warmup, the one after them 1.
        final: Factor at the end.

    Source: Loshchilov and Hutter 2017, eq. 5 (one cycle), https://arxiv.org/abs/1608.03983.
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
