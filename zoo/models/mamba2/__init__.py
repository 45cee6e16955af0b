"""Mamba-2 (Dao and Gu 2024): a decoder of state spaces whose heads have one decay per token."""

from zoo.models.mamba2.model import FAMILY, Mamba2, Mamba2Config

__all__ = ["FAMILY", "Mamba2", "Mamba2Config"]
