"""The point transformer (Zhao et al. 2021)."""

from zoo.models.point_transformer.model import FAMILY, PointTransformer, PointTransformerConfig

__all__ = ["FAMILY", "PointTransformer", "PointTransformerConfig"]
