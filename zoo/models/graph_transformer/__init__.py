"""A transformer whose nodes attend to their neighbors."""

from zoo.models.graph_transformer.model import FAMILY, GraphTransformer, GraphTransformerConfig

__all__ = ["FAMILY", "GraphTransformer", "GraphTransformerConfig"]
