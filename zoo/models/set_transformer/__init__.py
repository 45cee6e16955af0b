"""The set transformer (Lee et al. 2019)."""

from zoo.models.set_transformer.model import FAMILY, SetTransformer, SetTransformerConfig

__all__ = ["FAMILY", "SetTransformer", "SetTransformerConfig"]
