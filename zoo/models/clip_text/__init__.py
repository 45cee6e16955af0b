"""The text towers of CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023): pre-norm, pooled at one token."""

from zoo.models.clip_text.model import FAMILY, ClipText, ClipTextConfig

__all__ = ["FAMILY", "ClipText", "ClipTextConfig"]
