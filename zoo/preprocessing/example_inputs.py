"""Two rows of random inputs of each modality, for models of any config."""

from typing import Any

import torch
from torch import Tensor

from zoo.preprocessing.image import pair


def pixel_values(config: Any, generator: torch.Generator) -> Tensor:
    return torch.randn(2, config.in_chans, *pair(config.image_size), generator=generator)


def input_ids(config: Any, generator: torch.Generator) -> Tensor:
    fixed = not getattr(config, "causal", True)  # text towers of fixed length attend to their padding
    length = config.max_length if fixed else min(16, config.max_length)
    ids = torch.randint(config.vocab_size, (2, length), generator=generator)
    pad = getattr(config, "pad_token_id", None)
    if pad is not None and 0 <= pad < config.vocab_size and config.vocab_size > 1:  # models handle it in their own ways
        ids[ids == pad] = (pad + 1) % config.vocab_size
    if getattr(config, "pool", None) == "eos" and config.eos_token_id is not None:
        end = config.eos_token_id
        if hasattr(config, "decoder_start_token_id"):  # BART's rows must have equally many end tokens
            end = end[0] if isinstance(end, tuple) else end
            ids[ids == end] = next(i for i in range(3) if i not in (pad, end))
        ids[:, -1] = end
    return ids


def input_values(config: Any, generator: torch.Generator) -> Tensor:
    """Spectrograms (time first, or for Whisper frequency first), or for waveform models the samples of 24 tokens."""
    if hasattr(config, "mel_bins") and hasattr(config, "frames"):
        return torch.randn(2, config.mel_bins, config.frames, generator=generator)
    shape = (config.max_length, config.mel_bins) if hasattr(config, "mel_bins") else (config.samples(24),)
    return torch.randn(2, *shape, generator=generator)


def node_features(config: Any, generator: torch.Generator) -> Tensor:
    """Of two graphs with eight nodes each."""
    return torch.randn(16, config.in_features, generator=generator)


def points(config: Any, generator: torch.Generator) -> Tensor:
    return torch.randn(2, 24, config.in_features, generator=generator)


def alignments(config: Any, generator: torch.Generator) -> Tensor:
    """Two alignments of five sequences of twelve residues."""
    return torch.randint(config.vocab_size, (2, 5, 12), generator=generator)
