"""BERT (Devlin et al. 2019): word, position and type embeddings, a post-norm encoder that sees both sides.

The class serves the encoders that differ from BERT in their inputs and heads alone (RoBERTa, DistilBERT), and the
embedding models that people build on it (sentence-transformers).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from ..formats.dialect import Dialect
from ..frontends.tokens import Tokens
from ..heads import MaskedToken, PoolTokens
from ..nn.spec import BlockSpec
from .base import Family
from .text import HEADS, TextConfig, TextModel


@dataclass(frozen=True, kw_only=True)
class BertConfig(TextConfig):
    """See TextConfig. types: rows of the type table. pooler: the activation of a linear map behind pooling, None for
    none. unit: pooled features have length 1. tied: the word table is also the last map. pad_id: whose tokens pad."""

    head: str | None = "masked_lm"
    vocab_size: int = 30522
    max_length: int = 512
    width: int = 768
    depth: int = 12
    heads: int = 12
    eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    types: int = 2
    pooler: Literal["tanh", "relu"] | None = "tanh"
    unit: bool = False
    tied: bool = True
    pad_id: int | None = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.allow_heads("masked_lm", *HEADS)

    @property
    def first_position(self) -> int:
        """The row of the position table that a text's first token takes."""
        return 0


class Bert(TextModel):
    """forward(input_ids [B, N], attention_mask, token_type_ids) -> what the head answers; see TextModel."""

    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask", "token_type_ids", "document_ids")
    pools_through: ClassVar[bool] = True  # head="pool" has the pooler that a classifier has

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        c = config
        spec = BlockSpec.of(c, order="post")
        self.tokens = Tokens(
            c.vocab_size,
            c.width,
            max_length=c.max_length,
            first=c.first_position,
            types=c.types,
            norm=spec.make_norm(),
            dropout=c.dropout,
        )
        self.blocks = spec.stack(c.depth)
        self.head = self.make_head()

    @property
    def head_act(self) -> str:
        """The activation within the masked-language-model head."""
        return self.config.act

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head == "masked_lm":
            word = self.tokens.word if c.tied else None
            return MaskedToken(c.width, c.vocab_size, nn.LayerNorm(c.width, c.eps), act=self.head_act, tied=word)
        if c.head == "pool":
            return PoolTokens(c.pool, c.width, c.pooler if self.pools_through else None, unit=c.unit)
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
    "minilm_l6": dict(width=384, depth=6, head="pool", pool="mean", pooler=None, unit=True),
    "minilm_l12": dict(width=384, depth=12, head="pool", pool="mean", pooler=None, unit=True),
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

# --- transformers -----------------------------------------------------------------------------------------------------

KEYS = """
    vocab_size        = vocab_size
    max_length        = max_position_embeddings
    types             = type_vocab_size
    width             = hidden_size
    depth             = num_hidden_layers
    heads             = num_attention_heads
    hidden            = intermediate_size
    act               = hidden_act             gelu_new=gelu_tanh gelu_pytorch_tanh=gelu_tanh swish=silu
    eps               = layer_norm_eps
    dropout           = hidden_dropout_prob
    attention_dropout = attention_probs_dropout_prob
    tied              = tie_word_embeddings
    pad_id            = pad_token_id
"""

TABLE = """
    tokens.word.weight          = ~embeddings.word_embeddings.weight
    tokens.positions            = ~embeddings.position_embeddings.weight
    tokens.types.weight         = ~embeddings.token_type_embeddings.weight
    tokens.norm.@               = ~embeddings.LayerNorm.@
    blocks.*.mixer.q.@          = ~encoder.layer.*.attention.self.query.@
    blocks.*.mixer.k.@          = ~encoder.layer.*.attention.self.key.@
    blocks.*.mixer.v.@          = ~encoder.layer.*.attention.self.value.@
    blocks.*.mixer.out.@        = ~encoder.layer.*.attention.output.dense.@
    blocks.*.norm1.@            = ~encoder.layer.*.attention.output.LayerNorm.@
    blocks.*.mlp.up.@           = ~encoder.layer.*.intermediate.dense.@
    blocks.*.mlp.down.@         = ~encoder.layer.*.output.dense.@
    blocks.*.norm2.@            = ~encoder.layer.*.output.LayerNorm.@
    -                           = ~embeddings.position_ids
    -                           = ~embeddings.token_type_ids
    -                           = ~pooler.dense.*
    -                           = cls.seq_relationship.*
    -                           = cls.predictions.decoder.*
"""

HEAD_TABLES: dict[str | None, str] = {
    None: """
    -                           = cls.**
    -                           = classifier.*
    -                           = qa_outputs.*
""",
    "masked_lm": """
    head.dense.@                = cls.predictions.transform.dense.@
    head.norm.@                 = cls.predictions.transform.LayerNorm.@
    head.proj.weight            = cls.predictions.decoder.weight
    head.proj.bias              = cls.predictions.decoder.bias | cls.predictions.bias   if head.proj.weight
    head.proj.bias              = cls.predictions.bias | cls.predictions.decoder.bias
    -                           = cls.predictions.bias
""",
    "classify": """
    head.dense.@                = ~pooler.dense.@
    head.proj.@                 = classifier.@
""",
    "pool": "head.dense.@ = ~pooler.dense.@",
    "token": "head.proj.@ = classifier.@",
    "qa": "head.proj.@ = qa_outputs.@",
}

# Options of theirs that change the numbers and that we have no word for.
ONLY: dict[str, tuple[Any, ...]] = {
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "position_embedding_type": ("absolute",),
    "chunk_size_feed_forward": (0,),
}


def heads_of(name: str) -> dict[str, Mapping[str, Any]]:
    """Their classes for a `name` such as "Bert" -> the fields of ours."""
    return {
        f"{name}Model": {"head": None},
        f"{name}ForMaskedLM": {"head": "masked_lm"},
        f"{name}ForPreTraining": {"head": "masked_lm"},
        f"{name}ForSequenceClassification": {"head": "classify"},
        f"{name}ForTokenClassification": {"head": "token"},
        f"{name}ForQuestionAnswering": {"head": "qa"},
    }


BERT = Dialect(
    name="bert",
    base="bert.",
    keys=KEYS,
    table=TABLE,
    head_tables=HEAD_TABLES,
    only=ONLY,
    heads=heads_of("Bert"),
    assumes=("BertModel",),
    embeds=dict(pooler=None),
)

FAMILY = Family("bert", Bert, BertConfig, "text", VARIANTS, SOURCES, {"transformers": BERT})
