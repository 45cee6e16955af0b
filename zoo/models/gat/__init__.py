"""Graph attention networks: GAT, GATv2 and UniMP."""

from zoo.models.gat.model import FAMILY, GAT, GATConfig

__all__ = ["FAMILY", "GAT", "GATConfig"]
