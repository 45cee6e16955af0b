"""Gemma 3 with images (Gemma Team 2025): SigLIP, a projector of pooled features, and Gemma 3 as the decoder."""

from zoo.models.gemma3.model import FAMILY, Gemma3

__all__ = ["FAMILY", "Gemma3"]
