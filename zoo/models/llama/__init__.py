"""LLaMA (Touvron et al. 2023) and its relatives: rotary positions, RMSNorm, a gated MLP, shared keys and values."""

from zoo.models.llama.model import FAMILY, Llama, LlamaConfig

__all__ = ["FAMILY", "Llama", "LlamaConfig"]
