"""SigLIP (Zhai et al. 2023)."""

from zoo.models.siglip.model import FAMILY, SigLIP

__all__ = ["FAMILY", "SigLIP"]
