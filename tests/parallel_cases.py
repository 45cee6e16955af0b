"""What the tests of parallel plans share: models in float64, their gradients in one process, and how far others are."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Gradients = dict[str, Tensor]
Case = tuple[Callable[[], Any], dict[str, Any]]


def double(model: Any) -> Any:
    """The model in training mode and in float64, each parameter moved by random numbers."""
    generator = torch.Generator().manual_seed(1)
    model = model.double().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.1)
    return model


def doubled(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}


def weights_like(y: Tensor) -> Tensor:
    """Random weights of the outputs, whose weighted mean is a loss in which each of them has a part."""
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def alone(case: Case) -> tuple[Tensor, Gradients]:
    """The output of a model in one process, and the gradients of the weighted mean of its numbers."""
    model, batch = case[0](), case[1]
    y = model(**batch)
    (y * weights_like(y)).mean().backward()
    return y.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def difference(found: Gradients, expected: Gradients) -> float:
    """The largest difference, relative to the largest gradient; parameters that are not expected have zeros."""
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert expected.keys() <= found.keys()
    zeros = {name: torch.zeros(()) for name in found.keys() - expected.keys()}
    return max(float((found[name] - one).abs().max()) / largest for name, one in (expected | zeros).items())
