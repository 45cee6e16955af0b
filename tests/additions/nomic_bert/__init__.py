"""NomicBERT (Nussbaum et al. 2024): BERT with rotary positions, a gated MLP and no biases in its blocks."""

from zoo.models.nomic_bert.model import FAMILY, NomicBert, NomicBertConfig

__all__ = ["FAMILY", "NomicBert", "NomicBertConfig"]
