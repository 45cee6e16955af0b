"""A small seeded batch of what a model takes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.models.base import Model
from zoo.preprocessing.image import pair


def example_batch(model: Model, seed: int = 0) -> dict[str, Tensor]:
    """Two seeded rows of what the model takes, on the CPU."""
    draw = torch.Generator().manual_seed(seed)
    return {name: EXAMPLES[name](model.config.part_of(name), draw) for name in model.inputs if name in EXAMPLES}


def _pixels(config: Any, draw: torch.Generator) -> Tensor:
    return torch.randn(2, config.in_chans, *pair(config.image_size), generator=draw)


def _token_ids(config: Any, draw: torch.Generator) -> Tensor:
    fixed = not getattr(config, "causal", True)  # what such a text is filled up with is content
    ids = torch.randint(
        config.vocab_size, (2, config.max_length if fixed else min(16, config.max_length)), generator=draw
    )
    if getattr(config, "pool", None) == "eos":
        ids[:, -1] = config.eos_token_id
    return ids


def _sounds(config: Any, draw: torch.Generator) -> Tensor:
    """Spectrograms, or for a model of waveforms a few tokens of sound."""
    shape = (config.max_length, config.mel_bins) if hasattr(config, "mel_bins") else (config.samples(24),)
    return torch.randn(2, *shape, generator=draw)


EXAMPLES: dict[str, Callable[[Any, torch.Generator], Tensor]] = {
    "pixel_values": _pixels,
    "input_ids": _token_ids,
    "input_values": _sounds,
}
