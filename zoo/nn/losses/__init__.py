"""Loss functions: contrastive losses, cross-entropy of large vocabularies, and CTC."""

from zoo.nn.losses.contrastive import clip_loss, siglip_loss
from zoo.nn.losses.cross_entropy import linear_cross_entropy
from zoo.nn.losses.ctc import ctc_loss

__all__ = ["clip_loss", "ctc_loss", "linear_cross_entropy", "siglip_loss"]
