"""Gemma 1, 2 and 3 (Gemma Team 2024, 2025): decoders with scaled embeddings, local layers and bounded scores."""

from zoo.models.gemma.model import FAMILY, Gemma, GemmaConfig

__all__ = ["FAMILY", "Gemma", "GemmaConfig"]
