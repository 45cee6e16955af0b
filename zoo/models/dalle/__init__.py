"""DALL-E (Ramesh et al. 2021): one causal stack over the tokens of a text and of its image."""

from zoo.models.dalle.model import FAMILY, Dalle, DalleConfig

__all__ = ["FAMILY", "Dalle", "DalleConfig"]
