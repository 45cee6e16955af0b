"""CLIP (Radford et al. 2021): a ViT and a causal text tower, each projected into a shared embedding space."""

from zoo.models.clip.model import CLIP, FAMILY

__all__ = ["CLIP", "FAMILY"]
