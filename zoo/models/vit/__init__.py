"""Vision Transformers."""

from zoo.models.vit.model import FAMILY, ViT, ViTConfig

__all__ = ["FAMILY", "ViT", "ViTConfig"]
