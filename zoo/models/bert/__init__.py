"""BERT (Devlin et al. 2019): word, position and type embeddings, a post-norm encoder that sees both sides."""

from zoo.models.bert.model import FAMILY, Bert, BertConfig

__all__ = ["FAMILY", "Bert", "BertConfig"]
