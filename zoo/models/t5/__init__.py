"""T5 (Raffel et al. 2020), T5 v1.1, FLAN-T5 and mT5: encoder-decoders with relative positions."""

from zoo.models.t5.model import FAMILY, T5, T5Config

__all__ = ["FAMILY", "T5", "T5Config"]
