"""Contrastive models of two or three towers with a shared embedding space."""

from zoo.models.contrast.model import FAMILY, Contrastive, ContrastiveOutput

__all__ = ["FAMILY", "Contrastive", "ContrastiveOutput"]
