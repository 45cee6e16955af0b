"""BERT (Devlin et al. 2019): word, position and token type embeddings, and a bidirectional post-norm encoder."""

from zoo.models.bert.model import FAMILY, Bert, BertConfig

__all__ = ["FAMILY", "Bert", "BertConfig"]
