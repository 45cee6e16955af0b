"""Two or more towers that share one space."""

from zoo.models.contrast.model import FAMILY, Contrastive, ContrastiveOutput

__all__ = ["FAMILY", "Contrastive", "ContrastiveOutput"]
