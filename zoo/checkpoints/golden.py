"""Golden outputs: a seeded batch and the outputs of the model for it, saved beside the weights."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from zoo.models.base import Model
from zoo.models.eval_mode import eval_mode
from zoo.models.example_batch import example_batch


def golden(model: Model) -> dict[str, Tensor]:
    """A seeded batch ("input.*") and the outputs of the model ("output", or the names of its outputs)."""
    batch = example_batch(model)
    return {f"input.{name}": value for name, value in batch.items()} | run_batch(model, batch)


def run_batch(model: Model, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs on the CPU, in evaluation mode."""
    placed = {name: value.to(model.device) for name, value in cast_batch(batch, model.dtype).items()}
    with eval_mode(model), torch.no_grad():
        return {name: tensor.cpu() for name, tensor in named_outputs(model(**placed)).items()}


def named_outputs(output: Any) -> dict[str, Tensor]:
    """The outputs of a model as named tensors."""
    if isinstance(output, Tensor):
        return {"output": output}
    if isinstance(output, Mapping):
        return dict(output)
    return {f.name: value for f in fields(output) if (value := getattr(output, f.name)) is not None}


def cast_batch(batch: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}
