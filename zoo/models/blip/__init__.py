"""BLIP (Li et al. 2022): captions of images by a ViT and a BERT decoder that attends to it."""

from zoo.models.blip.model import FAMILY, Blip, BlipConfig

__all__ = ["FAMILY", "Blip", "BlipConfig"]
