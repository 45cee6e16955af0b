"""The Transformer (Vaswani et al. 2017): an encoder-decoder with sinusoidal positions and norms after each branch."""

from zoo.models.transformer.model import FAMILY, Transformer, TransformerConfig

__all__ = ["FAMILY", "Transformer", "TransformerConfig"]
