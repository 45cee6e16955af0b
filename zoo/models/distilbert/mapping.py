"""Mapping of DistilBERT to transformers: config keys and tensor names, in both directions."""

from zoo.models.mapping.config_keys import CheckpointMapping

# --- transformers -----------------------------------------------------------------------------------------------------

KEYS = """
    vocab_size        = vocab_size
    max_length        = max_position_embeddings
    width             = dim
    depth             = n_layers
    heads             = n_heads
    mlp_dim           = hidden_dim
    act               = activation             activations
    dropout           = dropout
    attention_dropout = attention_dropout
    tie_word_embeddings = tie_word_embeddings
    pad_token_id      = pad_token_id
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

DISTILBERT = CheckpointMapping(
    name="distilbert",
    base="distilbert.",
    keys=KEYS,
    table=TABLE,
    head_tables=HEAD_TABLES,
    embeds={},
    aliases={"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"},
    heads={
        "DistilBertModel": {"head": None},
        "DistilBertForMaskedLM": {"head": "masked_lm"},
        "DistilBertForSequenceClassification": {"head": "classify"},
        "DistilBertForTokenClassification": {"head": "token"},
        "DistilBertForQuestionAnswering": {"head": "qa"},
    },
)
