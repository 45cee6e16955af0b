"""Losses that are more than one line of torch."""

from .contrastive import clip_loss, siglip_loss

__all__ = ["clip_loss", "siglip_loss"]
