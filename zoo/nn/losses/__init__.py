"""Loss functions: contrastive losses and CTC."""

from zoo.nn.losses.contrastive import clip_loss, siglip_loss
from zoo.nn.losses.ctc import ctc_loss

__all__ = ["clip_loss", "ctc_loss", "siglip_loss"]
