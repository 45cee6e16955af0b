"""A small seeded batch of what a model takes."""

import torch
from torch import Tensor

from zoo.models.base import Model
from zoo.preprocessing.modality import MODALITIES


def example_batch(model: Model, seed: int = 0) -> dict[str, Tensor]:
    """Two seeded rows of what the model takes, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    examples = {name: record.example for record in MODALITIES.values() for name in record.main_inputs}
    examples["decoder_input_ids"] = MODALITIES["text"].example
    names = [name for name in model.inputs if name in examples]
    return model.complete_example({name: examples[name](model.config.part_of(name), generator) for name in names})
