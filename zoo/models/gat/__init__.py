"""Graph attention networks: GAT and GATv2."""

from zoo.models.gat.model import FAMILY, GAT, GATConfig

__all__ = ["FAMILY", "GAT", "GATConfig"]
