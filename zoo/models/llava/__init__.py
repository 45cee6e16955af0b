"""LLaVA 1.5 (Liu et al. 2023): a CLIP image tower, a projector of two layers and a LLaMA decoder."""

from zoo.models.llava.model import FAMILY, Llava

__all__ = ["FAMILY", "Llava"]
