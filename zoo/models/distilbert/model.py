"""DistilBERT (Sanh et al. 2019): BERT with half of the layers, no token types, and a ReLU in its classifier."""

from dataclasses import dataclass
from typing import Any, Literal

from zoo.models.bert.model import Bert, BertConfig
from zoo.models.distilbert.mapping import DISTILBERT
from zoo.models.family import Family


@dataclass(frozen=True, kw_only=True)
class DistilBertConfig(BertConfig):
    """See BertConfig. Only head="classify" has the pooler."""

    depth: int = 6
    type_vocab_size: int = 0
    pooler: Literal["tanh", "relu"] | None = "relu"


class DistilBert(Bert):
    """forward(input_ids [B, N], attention_mask) -> output of the head; see TextModel."""

    inputs = ("input_ids", "attention_mask", "document_ids", "lengths")
    pools_through = False


VARIANTS: dict[str, dict[str, Any]] = {
    "distilbert_small": dict(width=384, depth=3),
    "distilbert_base": {},
    "distilbert_base_cased": dict(vocab_size=28996),
    "distilbert_base_multilingual_cased": dict(vocab_size=119547),
}

SOURCES = {
    "distilbert_base": "hf-hub:distilbert/distilbert-base-uncased",
    "distilbert_base_cased": "hf-hub:distilbert/distilbert-base-cased",
    "distilbert_base_multilingual_cased": "hf-hub:distilbert/distilbert-base-multilingual-cased",
}

FAMILY = Family("distilbert", DistilBert, DistilBertConfig, "text", VARIANTS, SOURCES, {"transformers": DISTILBERT})
