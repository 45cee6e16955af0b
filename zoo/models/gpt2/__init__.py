"""GPT-2 (Radford et al. 2019): learned positions, a pre-norm causal stack, the word table as the last map."""

from zoo.models.gpt2.model import FAMILY, GPT2, GPT2Config

__all__ = ["FAMILY", "GPT2", "GPT2Config"]
