"""Longformer (Beltagy et al. 2020)."""

from zoo.models.longformer.model import FAMILY, Longformer, LongformerConfig

__all__ = ["FAMILY", "Longformer", "LongformerConfig"]
