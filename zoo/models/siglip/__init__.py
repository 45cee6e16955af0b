"""SigLIP (Zhai et al. 2023): a contrastive image-text model with a sigmoid loss."""

from zoo.models.siglip.model import FAMILY, SigLIP

__all__ = ["FAMILY", "SigLIP"]
