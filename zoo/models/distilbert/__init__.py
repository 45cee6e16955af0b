"""DistilBERT (Sanh et al. 2019): BERT with half of the layers, no token types, and a ReLU in its classifier."""

from zoo.models.distilbert.model import FAMILY, DistilBert, DistilBertConfig

__all__ = ["FAMILY", "DistilBert", "DistilBertConfig"]
