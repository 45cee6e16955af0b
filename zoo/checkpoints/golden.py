"""Golden outputs: a seeded batch and the outputs of the model for it, saved beside the weights.

The metadata of the file records what outputs do not depend on: labels, preprocessing, and fields of the config such as
problem_type and dropout.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from zoo.models.base import Model
from zoo.models.eval_mode import eval_mode
from zoo.models.example_batch import example_batch
from zoo.models.mapping.tensors import config_as_tied

RECORD = "zoo"  # the metadata of the file with the description


def golden(model: Model) -> dict[str, Tensor]:
    """A seeded batch ("input.*") and the outputs of the model ("output", or the names of its outputs)."""
    batch = example_batch(model)
    try:
        outputs = run_batch(model, batch)
    except RuntimeError as error:  # such as tensors of two types, or on two devices
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"the model cannot compute an example batch, so it was not saved: {reason}") from error
    return {f"input.{name}": value for name, value in batch.items()} | outputs


def description(model: Model) -> dict[str, Any]:
    """Labels, config, settings of the preprocessing and hashes of its files, as JSON types: {name: value}."""
    values: dict[str, Any] = {"labels": model.labels}
    fields = dict.fromkeys(model.config.names()) | config_as_tied(model).to_dict()
    values |= {f"config.{name}": value for name, value in fields.items()}
    if model.preprocess is not None:
        values |= {f"preprocess.{name}": value for name, value in model.preprocess.to_dict().items()}
        files = model.preprocess.files().items()
        values |= {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files}
    return json.loads(json.dumps(values))


def run_batch(model: Model, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs on the CPU, in evaluation mode, but those that are inputs (labels)."""
    placed = {name: value.to(model.device) for name, value in cast_batch(batch, model.dtype).items()}
    with eval_mode(model), torch.no_grad():
        outputs = named_outputs(model(**placed)).items()
        return {name: y.cpu() for name, y in outputs if not any(y is value for value in placed.values())}


def named_outputs(output: Any) -> dict[str, Tensor]:
    """The outputs of a model as named tensors."""
    if isinstance(output, Tensor):
        return {"output": output}
    if isinstance(output, Mapping):
        return dict(output)
    return {f.name: value for f in fields(output) if (value := getattr(output, f.name)) is not None}


def cast_batch(batch: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}
