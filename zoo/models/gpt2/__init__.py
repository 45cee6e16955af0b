"""GPT-2 (Radford et al. 2019): a pre-norm causal decoder with learned positions and tied word embeddings."""

from zoo.models.gpt2.model import FAMILY, GPT2, GPT2Config

__all__ = ["FAMILY", "GPT2", "GPT2Config"]
