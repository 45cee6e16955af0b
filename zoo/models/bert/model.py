"""BERT (Devlin et al. 2019): word, position and token type embeddings, and a bidirectional post-norm encoder.

Also the base class of encoders that differ only in their inputs and heads (RoBERTa, DistilBERT), and the class of text
embedding models built on BERT (sentence-transformers).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from zoo.models.bert.mapping import BERT
from zoo.models.family import Family
from zoo.models.text import HEADS, TextConfig, TextModel
from zoo.nn.block_config import BlockConfig
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.heads import MaskedLMHead, TextPooling


@dataclass(frozen=True, kw_only=True)
class BertConfig(TextConfig):
    """type_vocab_size: number of token types. pooler: activation of the dense layer after pooling, None for no layer.
    normalize: L2-normalize pooled features. tie_word_embeddings: the masked-LM head uses the word embeddings.
    pad_token_id: the padding token. See TextConfig for the other fields."""

    head: str | None = "masked_lm"
    vocab_size: int = 30522
    max_length: int = 512
    width: int = 768
    depth: int = 12
    heads: int = 12
    norm_eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    type_vocab_size: int = 2
    pooler: Literal["tanh", "relu"] | None = "tanh"
    normalize: bool = False
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.allow_heads("masked_lm", *HEADS)

    @property
    def first_position(self) -> int:
        """Row of the position table for the first token of a text."""
        return 0

    @property
    def embedding_scale(self) -> float:
        """Factor of the word embeddings."""
        return 1.0


class Bert(TextModel):
    """forward(input_ids [B, N], attention_mask, token_type_ids) -> output of the head; see TextModel."""

    inputs: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids", "document_ids", "lengths")
    pools_through: ClassVar[bool] = True  # head="pool" has the pooler of the classifier

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        c = config
        spec = BlockConfig.of(c, order="post")
        self.tokens = TextEmbedding(
            c.vocab_size,
            c.width,
            max_length=c.max_length,
            position_offset=c.first_position,
            types=c.type_vocab_size,
            norm=spec.make_norm(),
            dropout=c.dropout,
            scale=c.embedding_scale,
        )
        self.blocks = spec.stack(c.depth)
        self.head = self.make_head()

    @property
    def head_act(self) -> str:
        """Activation of the masked-LM head."""
        return self.config.act

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head == "masked_lm":
            word = self.tokens.word if c.tie_word_embeddings else None
            return MaskedLMHead(c.width, c.vocab_size, nn.LayerNorm(c.width, c.norm_eps), act=self.head_act, tied=word)
        if c.head == "pool":
            return TextPooling(c.pool, c.width, c.pooler if self.pools_through else None, normalize=c.normalize)
        return self.common_head(dense=c.pooler)


VARIANTS: dict[str, dict[str, Any]] = {
    "bert_tiny": dict(width=128, depth=2, heads=2),
    "bert_mini": dict(width=256, depth=4, heads=4),
    "bert_small": dict(width=512, depth=4, heads=8),
    "bert_medium": dict(width=512, depth=8, heads=8),
    "bert_base": {},
    "bert_base_cased": dict(vocab_size=28996),
    "bert_base_multilingual_cased": dict(vocab_size=119547),
    "bert_large": dict(width=1024, depth=24, heads=16),
    "minilm_l6": dict(width=384, depth=6, head="pool", pool="mean", pooler=None, normalize=True),
    "minilm_l12": dict(width=384, depth=12, head="pool", pool="mean", pooler=None, normalize=True),
}

SOURCES = {
    "bert_tiny": "hf-hub:google/bert_uncased_L-2_H-128_A-2",
    "bert_mini": "hf-hub:google/bert_uncased_L-4_H-256_A-4",
    "bert_small": "hf-hub:google/bert_uncased_L-4_H-512_A-8",
    "bert_medium": "hf-hub:google/bert_uncased_L-8_H-512_A-8",
    "bert_base": "hf-hub:google-bert/bert-base-uncased",
    "bert_base_cased": "hf-hub:google-bert/bert-base-cased",
    "bert_base_multilingual_cased": "hf-hub:google-bert/bert-base-multilingual-cased",
    "bert_large": "hf-hub:google-bert/bert-large-uncased",
    "minilm_l6": "hf-hub:sentence-transformers/all-MiniLM-L6-v2",
    "minilm_l12": "hf-hub:sentence-transformers/all-MiniLM-L12-v2",
}

FAMILY = Family("bert", Bert, BertConfig, "text", VARIANTS, SOURCES, {"transformers": BERT})
