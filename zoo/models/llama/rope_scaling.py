"""RoPE scaling: linear, Llama 3, YaRN."""

import math
from typing import Any

import torch
from torch import Tensor

from zoo.nn.rotary import Rotary, rotary

# Options of each kind of scaling with their defaults; `...` marks a required option.
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"factor": ...},
    "llama3": {
        "factor": ...,
        "low_freq_factor": ...,
        "high_freq_factor": ...,
        "original_max_position_embeddings": ...,
    },
    "yarn": {
        "factor": ...,
        "original_max_position_embeddings": ...,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "attention_factor": None,
    },
}


def check_scaling(scaling: dict | None) -> None:
    """Raise ValueError for a scaling of an unknown kind, or with an option that it does not have or lacks."""
    if scaling is None:
        return
    kind, options = scaling.get("kind"), scaling.keys() - {"kind"}
    known = SCALINGS.get(str(kind))
    if known is None:
        raise ValueError(f"rope_scaling: kind={kind!r} is not supported, only {', '.join(SCALINGS)}")
    required = {name for name, default in known.items() if default is ...}
    if wrong := sorted(options - known.keys()) + sorted(required - options):
        raise ValueError(f"rope_scaling {kind!r} takes {', '.join(known)}; {wrong[0]!r} is unknown or missing")


def scaled_rotary(positions: Tensor, dim: int, base: float, scaling: dict | None) -> Rotary:
    """Rotary tables of `dim` channels for tokens at `positions` [N] or [B, N]."""
    frequencies, factor = scaled_frequencies(dim, base, scaling, positions.device)
    tables = rotary(positions, dim, frequencies=frequencies)
    return tables if factor == 1 else Rotary(tables.cos * factor, tables.sin * factor)


def scaled_frequencies(dim: int, base: float, scaling: dict | None, device: torch.device) -> tuple[Tensor, float]:
    """Scaled rotary frequencies [P / 2], and the factor by which the cos and sin tables are multiplied."""
    exponent = torch.arange(0, dim, 2, dtype=torch.int64, device=device).float() / dim
    frequencies = 1.0 / base**exponent
    if scaling is None:
        return frequencies, 1.0
    options = SCALINGS[scaling["kind"]] | scaling
    if scaling["kind"] == "linear":
        return frequencies / options["factor"], 1.0
    if scaling["kind"] == "llama3":
        return llama3(frequencies, options), 1.0
    return yarn(frequencies, dim, base, options)


def llama3(frequencies: Tensor, options: dict[str, Any]) -> Tensor:
    """LLaMA 3.1: low frequencies are divided by `factor`, high ones kept, with a linear ramp between them."""
    length, low, high = (
        options[name] for name in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    turns = length * frequencies / (2 * math.pi)  # over the pretraining length
    ramp = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - ramp) * frequencies / options["factor"] + ramp * frequencies


def yarn(frequencies: Tensor, dim: int, base: float, options: dict[str, Any]) -> tuple[Tensor, float]:
    """YaRN (Peng et al. 2023): a ramp over the channels, and attention scores scaled with the factor."""

    def channel(turns: float) -> float:
        """The channel pair that makes this number of turns over the pretraining length."""
        length = options["original_max_position_embeddings"]
        return dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(channel(options["beta_fast"])), 0)
    high = min(math.ceil(channel(options["beta_slow"])), dim - 1)
    pairs = torch.arange(dim // 2, device=frequencies.device).float()
    scaled = ((pairs - low) / max(high - low, 0.001)).clamp(0, 1)
    factor = options["factor"]
    attention = options["attention_factor"]
    if attention is None:
        attention = 1.0 if factor <= 1 else 0.1 * math.log(factor) + 1.0
    return frequencies / factor * scaled + frequencies * (1 - scaled), attention
