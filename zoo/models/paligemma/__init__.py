"""PaliGemma 1 and 2 (Beyer, Steiner et al. 2024): SigLIP, a linear projector and Gemma with a prefix mask."""

from zoo.models.paligemma.model import FAMILY, PaliGemma

__all__ = ["FAMILY", "PaliGemma"]
