"""Mapping of ESM to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.utils.errors import LoadError

# --- transformers -----------------------------------------------------------------------------------------------------

KEYS = """
    vocab_size        = vocab_size
    width             = hidden_size
    depth             = num_hidden_layers
    heads             = num_attention_heads
    mlp_dim           = intermediate_size
    norm_eps          = layer_norm_eps
    dropout           = hidden_dropout_prob
    attention_dropout = attention_probs_dropout_prob
    tie_word_embeddings = tie_word_embeddings
    pad_token_id      = pad_token_id
    mask_token_id     = mask_token_id
"""

TABLE = """
    tokens.word.weight          = ~embeddings.word_embeddings.weight
    tokens.positions            = ~embeddings.position_embeddings.weight
    tokens.norm.@               = ~embeddings.layer_norm.@
    rotary.inv_freq             = ~rotary_embeddings.inv_freq | ~encoder.layer.0.attention.self.rotary_embeddings.inv_freq | ~encoder.layer.*.attention.self.rotary_embeddings.inv_freq ?
    blocks.*.norm1.@            = ~encoder.layer.*.attention.LayerNorm.@
    blocks.*.mixer.q.@          = ~encoder.layer.*.attention.self.query.@
    blocks.*.mixer.k.@          = ~encoder.layer.*.attention.self.key.@
    blocks.*.mixer.v.@          = ~encoder.layer.*.attention.self.value.@
    blocks.*.mixer.out.@        = ~encoder.layer.*.attention.output.dense.@
    blocks.*.norm2.@            = ~encoder.layer.*.LayerNorm.@
    blocks.*.mlp.up.@           = ~encoder.layer.*.intermediate.dense.@
    blocks.*.mlp.down.@         = ~encoder.layer.*.output.dense.@
    blocks.norm.@               = ~encoder.emb_layer_norm_after.@
    contact_head.proj.@         = ~contact_head.regression.@
    -                           = ~encoder.layer.*.attention.self.rotary_embeddings.inv_freq
    -                           = ~embeddings.position_embeddings.weight
    -                           = ~embeddings.position_ids
    -                           = ~contact_head.regression.*
    -                           = ~pooler.dense.*
"""  # noqa: E501

OTHER_HEADS = """
    -                           = lm_head.**
    -                           = classifier.**
"""
HEAD_TABLES: dict[str | None, str] = {
    None: OTHER_HEADS,
    "pool": OTHER_HEADS,
    "contacts": f"""
    head.proj.@                 = ~contact_head.regression.@
    {OTHER_HEADS}
""",
    "masked_lm": """
    head.dense.@                = lm_head.dense.@
    head.norm.@                 = lm_head.layer_norm.@
    head.proj.weight            = lm_head.decoder.weight
    head.proj.bias              = lm_head.bias
    -                           = lm_head.decoder.*
""",
    "classify": """
    head.dense.@                = classifier.dense.@
    head.proj.@                 = classifier.out_proj.@
""",
    "token": "head.proj.@ = classifier.@",
}
POSITIONS = ("rotary", "absolute")


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The positions; their `max_position_embeddings` includes the rows up to the padding id, which no token uses."""
    kind = theirs.get("position_embedding_type", "absolute")
    if kind not in POSITIONS:
        raise LoadError(f"esm: position_embedding_type={kind!r} is not supported, only {' or '.join(POSITIONS)}")
    scaling = (theirs.get("rope_parameters") or {}).get("rope_type", "default")
    if scaling != "default":
        raise LoadError(f"esm: rope_type={scaling!r} is not supported, only 'default'")
    return {
        "rope": float(theirs.get("rope_theta", 10000.0)) if kind == "rotary" else None,
        "max_length": theirs.get("max_position_embeddings", 1026) - (fields["pad_token_id"] or 0) - 1,
        "embedding_norm": bool(theirs.get("emb_layer_norm_before")),
        "token_dropout": bool(theirs.get("token_dropout")),
    }


def write(config: Any) -> dict[str, Any]:
    absolute = config.rope is None
    return {
        "position_embedding_type": "absolute" if absolute else "rotary",
        "max_position_embeddings": config.max_length + config.first_position,
        "emb_layer_norm_before": config.embedding_norm,
        "token_dropout": config.token_dropout,
    } | ({} if absolute else {"rope_theta": config.rope})


ESM = CheckpointMapping(
    name="esm",
    base="esm.",
    keys=KEYS,
    table=TABLE,
    head_tables=HEAD_TABLES,
    defaults=dict(norm_eps=1e-12, width=768, depth=12, heads=12, mlp_dim=3072, dropout=0.1, attention_dropout=0.1),
    only={"is_folding_model": (False, None), "is_decoder": (False,), "add_cross_attention": (False,)},
    heads={
        "EsmModel": {"head": None},
        "EsmForMaskedLM": {"head": "masked_lm"},
        "EsmForSequenceClassification": {"head": "classify"},
        "EsmForTokenClassification": {"head": "token"},
    },
    assumes=("EsmModel",),
    bare_heads=("pool", "contacts"),
    if_in_file={"contact_head": "contact_head.proj.weight"},
    read=read,
    write=write,
)
