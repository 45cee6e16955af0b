"""Marian (Junczys-Dowmunt et al. 2018): the Transformer as trained for the translation models of OPUS-MT."""

from zoo.models.marian.model import FAMILY, Marian, MarianConfig

__all__ = ["FAMILY", "Marian", "MarianConfig"]
