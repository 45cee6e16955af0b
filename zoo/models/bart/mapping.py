"""Mapping of BART and mBART to transformers: config keys and tensor names, in both directions."""

from dataclasses import replace
from typing import Any

from zoo.models.mapping.config_keys import CheckpointMapping

KEYS = """
    vocab_size          = vocab_size
    max_length          = max_position_embeddings
    width               = d_model
    depth               = encoder_layers
    decoder_depth       = decoder_layers
    heads               = encoder_attention_heads
    decoder_heads       = decoder_attention_heads
    mlp_dim             = encoder_ffn_dim
    decoder_mlp_dim     = decoder_ffn_dim
    act                 = activation_function      activations
    dropout             = dropout
    attention_dropout   = attention_dropout
    scale_embedding     = scale_embedding
    bos_token_id        = bos_token_id
    pad_token_id        = pad_token_id
    eos_token_id        = eos_token_id
    decoder_start_token_id = decoder_start_token_id
    forced_bos_token_id = forced_bos_token_id
    forced_eos_token_id = forced_eos_token_id
"""

# Of one layer: {side} is "encoder" or "decoder".
LAYER = """
    {side}.blocks.*.mixer.q.@     = ~{side}.layers.*.self_attn.q_proj.@
    {side}.blocks.*.mixer.k.@     = ~{side}.layers.*.self_attn.k_proj.@
    {side}.blocks.*.mixer.v.@     = ~{side}.layers.*.self_attn.v_proj.@
    {side}.blocks.*.mixer.out.@   = ~{side}.layers.*.self_attn.out_proj.@
    {side}.blocks.*.norm1.@       = ~{side}.layers.*.self_attn_layer_norm.@
    {side}.blocks.*.mlp.up.@      = ~{side}.layers.*.fc1.@
    {side}.blocks.*.mlp.down.@    = ~{side}.layers.*.fc2.@
    {side}.blocks.*.norm2.@       = ~{side}.layers.*.final_layer_norm.@
"""

CROSS = """
    decoder.blocks.*.cross.q.@    = ~decoder.layers.*.encoder_attn.q_proj.@
    decoder.blocks.*.cross.k.@    = ~decoder.layers.*.encoder_attn.k_proj.@
    decoder.blocks.*.cross.v.@    = ~decoder.layers.*.encoder_attn.v_proj.@
    decoder.blocks.*.cross.out.@  = ~decoder.layers.*.encoder_attn.out_proj.@
    decoder.blocks.*.cross_norm.@ = ~decoder.layers.*.encoder_attn_layer_norm.@
"""

LAYERS = LAYER.format(side="encoder") + LAYER.format(side="decoder") + CROSS

EMBEDDINGS = """
    encoder.tokens.positions      = ~encoder.embed_positions.weight
    decoder.tokens.positions      = ~decoder.embed_positions.weight
    encoder.tokens.norm.@         = ~encoder.layernorm_embedding.@
    decoder.tokens.norm.@         = ~decoder.layernorm_embedding.@
    encoder.tokens.word.weight    = ~shared.weight | ~encoder.embed_tokens.weight | ~decoder.embed_tokens.weight
    -                             = ~encoder.embed_tokens.weight
    -                             = ~decoder.embed_tokens.weight
    -                             = ~encoder.version
    -                             = ~decoder.version
"""

NO_LM_HEAD = """
    -                             = lm_head.weight
    -                             = final_logits_bias
"""

HEAD_TABLES: dict[str | None, str] = {
    "lm": """
    head.proj.weight              = lm_head.weight
    head.proj.bias                = final_logits_bias   row0
    -                             = lm_head.weight
    -                             = classification_head.**
""",
    "classify": NO_LM_HEAD
    + """
    head.dense.@                  = classification_head.dense.@
    head.proj.@                   = classification_head.out_proj.@
""",
    None: NO_LM_HEAD + "- = classification_head.**",
}

# Without it transformers' encoder and decoder do not share their embeddings either.
TIED = {"tie_word_embeddings": (True,)}

BART = CheckpointMapping(
    name="bart",
    base="model.",
    keys=KEYS,
    table=EMBEDDINGS + LAYERS,
    head_tables=HEAD_TABLES,
    heads={
        "BartForConditionalGeneration": {"head": "lm"},
        "BartForSequenceClassification": {"head": "classify"},
        "BartModel": {"head": None},
    },
    aliases={"num_attention_heads": "encoder_attention_heads", "hidden_size": "d_model"},
    only=TIED,
    read=lambda fields, theirs: {"order": "post"},
)

NORMS = """
    encoder.blocks.norm.@         = ~encoder.layer_norm.@
    decoder.blocks.norm.@         = ~decoder.layer_norm.@
"""


def read_mbart(fields: dict[str, Any], theirs: Any) -> dict[str, Any]:
    return {"order": "pre"}


MBART = replace(
    BART,
    name="mbart",
    table=BART.table + NORMS,
    heads={
        "MBartForConditionalGeneration": {"head": "lm"},
        "MBartModel": {"head": None},
    },
    read=read_mbart,
)
