"""BigBird (Zaheer et al. 2020)."""

from zoo.models.bigbird.model import FAMILY, BigBird, BigBirdConfig

__all__ = ["FAMILY", "BigBird", "BigBirdConfig"]
