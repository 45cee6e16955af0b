"""Mamba (Gu and Dao 2023): a decoder of selective state spaces, without attention and without MLPs."""

from zoo.models.mamba.model import FAMILY, Mamba, MambaConfig

__all__ = ["FAMILY", "Mamba", "MambaConfig"]
