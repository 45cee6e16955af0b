"""CoCa (Yu et al. 2022): images and texts in one embedding space, and captions of images, by one model."""

from zoo.models.coca.config import CoCaConfig, CoCaOutput
from zoo.models.coca.model import FAMILY, CoCa

__all__ = ["FAMILY", "CoCa", "CoCaConfig", "CoCaOutput"]
