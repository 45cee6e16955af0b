from zoo.models.gat.model import FAMILY, GAT, GATConfig

__all__ = ["FAMILY", "GAT", "GATConfig"]
