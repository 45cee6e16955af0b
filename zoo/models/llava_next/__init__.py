"""LLaVA-NeXT (Liu et al. 2024): LLaVA that reads an image as a whole and in tiles of its own resolution."""

from zoo.models.llava_next.model import FAMILY, LlavaNext

__all__ = ["FAMILY", "LlavaNext"]
