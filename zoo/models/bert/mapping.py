"""Mapping of BERT to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.mapping.config_keys import CheckpointMapping

# --- transformers -----------------------------------------------------------------------------------------------------

KEYS = """
    vocab_size        = vocab_size
    max_length        = max_position_embeddings
    type_vocab_size   = type_vocab_size
    width             = hidden_size
    depth             = num_hidden_layers
    heads             = num_attention_heads
    mlp_dim           = intermediate_size
    act               = hidden_act             activations
    norm_eps          = layer_norm_eps
    dropout           = hidden_dropout_prob
    attention_dropout = attention_probs_dropout_prob
    tie_word_embeddings = tie_word_embeddings
    pad_token_id      = pad_token_id
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

# Options of theirs that affect the outputs and that our config does not have.
ONLY: dict[str, tuple[Any, ...]] = {
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "position_embedding_type": ("absolute",),
    "chunk_size_feed_forward": (0,),
}


def heads_of(name: str) -> dict[str, Mapping[str, Any]]:
    """{their class: fields of our config}, for class names that begin with `name` ("Bert")."""
    return {
        f"{name}Model": {"head": None},
        f"{name}ForMaskedLM": {"head": "masked_lm"},
        f"{name}ForPreTraining": {"head": "masked_lm"},
        f"{name}ForSequenceClassification": {"head": "classify"},
        f"{name}ForTokenClassification": {"head": "token"},
        f"{name}ForQuestionAnswering": {"head": "qa"},
    }


BERT = CheckpointMapping(
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
