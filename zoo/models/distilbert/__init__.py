"""DistilBERT (Sanh et al. 2019): half of BERT"s layers, without token types, its classifier behind a ReLU."""

from zoo.models.distilbert.model import FAMILY, DistilBert, DistilBertConfig

__all__ = ["FAMILY", "DistilBert", "DistilBertConfig"]
