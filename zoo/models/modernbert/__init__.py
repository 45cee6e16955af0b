"""ModernBERT (Warner et al. 2024): rotary positions, a gated MLP, no biases, local attention in two of three layers."""

from zoo.models.modernbert.model import FAMILY, ModernBert, ModernBertConfig

__all__ = ["FAMILY", "ModernBert", "ModernBertConfig"]
