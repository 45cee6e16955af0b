"""Scores to labels with probabilities."""

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.models.base import Model
from zoo.models.eval_mode import eval_mode

Answer = list[tuple[str, float]]


def run(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """float32 scores on the CPU, in evaluation mode."""
    placed = {name: value.to(model.device) for name, value in batch.items()}
    placed = {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in placed.items()}
    with eval_mode(model), torch.no_grad():
        return model(**placed).float().cpu()


def best(shares: Tensor, top_k: int, name: Callable[[int], str]) -> list[Answer]:
    """Probabilities [B, C] -> for each row its `top_k` most probable [(name, probability), ...]."""
    found = shares.topk(min(top_k, shares.shape[-1]))
    rows = zip(found.values.tolist(), found.indices.tolist())
    return [[(name(i), p) for p, i in zip(*row)] for row in rows]
