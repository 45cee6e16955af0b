"""DistilBERT (Sanh et al. 2019): half of BERT's layers, without token types, its classifier behind a ReLU."""

from dataclasses import dataclass
from typing import Any, Literal

from ..formats.dialect import Dialect
from .base import Family
from .bert import Bert, BertConfig


@dataclass(frozen=True, kw_only=True)
class DistilBertConfig(BertConfig):
    """See BertConfig; the pooler belongs to the classifier alone."""

    depth: int = 6
    types: int = 0
    pooler: Literal["tanh", "relu"] | None = "relu"


class DistilBert(Bert):
    """forward(input_ids [B, N], attention_mask) -> what the head answers; see TextModel."""

    inputs = ("input_ids", "attention_mask", "document_ids")
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

# --- transformers -----------------------------------------------------------------------------------------------------

KEYS = """
    vocab_size        = vocab_size
    max_length        = max_position_embeddings
    width             = dim
    depth             = n_layers
    heads             = n_heads
    hidden            = hidden_dim
    act               = activation             gelu_new=gelu_tanh gelu_pytorch_tanh=gelu_tanh swish=silu
    dropout           = dropout
    attention_dropout = attention_dropout
    tied              = tie_word_embeddings
    pad_id            = pad_token_id
"""

TABLE = """
    tokens.word.weight          = ~embeddings.word_embeddings.weight
    tokens.positions            = ~embeddings.position_embeddings.weight
    tokens.norm.@               = ~embeddings.LayerNorm.@
    blocks.*.mixer.q.@          = ~transformer.layer.*.attention.q_lin.@
    blocks.*.mixer.k.@          = ~transformer.layer.*.attention.k_lin.@
    blocks.*.mixer.v.@          = ~transformer.layer.*.attention.v_lin.@
    blocks.*.mixer.out.@        = ~transformer.layer.*.attention.out_lin.@
    blocks.*.norm1.@            = ~transformer.layer.*.sa_layer_norm.@
    blocks.*.mlp.up.@           = ~transformer.layer.*.ffn.lin1.@
    blocks.*.mlp.down.@         = ~transformer.layer.*.ffn.lin2.@
    blocks.*.norm2.@            = ~transformer.layer.*.output_layer_norm.@
    -                           = ~embeddings.position_ids
    -                           = vocab_projector.weight
"""

HEAD_TABLES: dict[str | None, str] = {
    "masked_lm": """
    head.dense.@                = vocab_transform.@
    head.norm.@                 = vocab_layer_norm.@
    head.proj.weight            = vocab_projector.weight
    head.proj.bias              = vocab_projector.bias
""",
    "classify": """
    head.dense.@                = pre_classifier.@
    head.proj.@                 = classifier.@
""",
    "token": "head.proj.@ = classifier.@",
    "qa": "head.proj.@ = qa_outputs.@",
}

DISTILBERT = Dialect(
    name="distilbert",
    base="distilbert.",
    keys=KEYS,
    table=TABLE,
    head_tables=HEAD_TABLES,
    embeds={},
    heads={
        "DistilBertModel": {"head": None},
        "DistilBertForMaskedLM": {"head": "masked_lm"},
        "DistilBertForSequenceClassification": {"head": "classify"},
        "DistilBertForTokenClassification": {"head": "token"},
        "DistilBertForQuestionAnswering": {"head": "qa"},
    },
)

FAMILY = Family("distilbert", DistilBert, DistilBertConfig, "text", VARIANTS, SOURCES, {"transformers": DISTILBERT})
