"""Mapping of ModernBERT to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.utils.errors import LoadError

# --- transformers -----------------------------------------------------------------------------------------------------

KEYS = """
    vocab_size        = vocab_size
    max_length        = max_position_embeddings
    width             = hidden_size
    depth             = num_hidden_layers
    heads             = num_attention_heads
    mlp_dim           = intermediate_size
    act               = hidden_activation      activations
    norm_eps          = norm_eps
    attention_dropout = attention_dropout
    window            = local_attention
    pool              = classifier_pooling
    pooler            = classifier_activation  swish=silu
    tie_word_embeddings = tie_word_embeddings
    pad_token_id      = pad_token_id
"""

TABLE = """
    tokens.word.weight          = ~embeddings.tok_embeddings.weight
    tokens.norm.weight          = ~embeddings.norm.weight
    blocks.*.norm1.weight       = ~layers.*.attn_norm.weight
    blocks.*.mixer.{q,k,v}.@    = ~layers.*.attn.Wqkv.@
    blocks.*.mixer.out.@        = ~layers.*.attn.Wo.@
    blocks.*.norm2.weight       = ~layers.*.mlp_norm.weight
    blocks.*.mlp.{gate,up}.@    = ~layers.*.mlp.Wi.@
    blocks.*.mlp.down.@         = ~layers.*.mlp.Wo.@
    blocks.norm.weight          = ~final_norm.weight
    head.dense.weight           = head.dense.weight
    head.norm.weight            = head.norm.weight
    -                           = decoder.weight
"""

HEAD_TABLES: dict[str | None, str] = {
    "masked_lm": "head.proj.weight = decoder.weight \n head.proj.bias = decoder.bias",
    "classify": "head.proj.@ = classifier.@",
    "token": "head.proj.@ = classifier.@",
    "qa": "head.proj.@ = classifier.@",
}

ROPE = {"full_attention": ("rope", "global_rope_theta"), "sliding_attention": ("local_rope", "local_rope_theta")}


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The local layers and the rotary bases, from old and new spellings of the config."""
    ours: dict[str, Any] = {"global_every": theirs.get("global_attn_every_n_layers", 3)}
    if types := theirs.get("layer_types"):
        full = [layer for layer, kind in enumerate(types) if kind == "full_attention"]
        ours["global_every"] = full[1] if len(full) > 1 else max(len(types), 1)
        if full != list(range(0, len(types), ours["global_every"])):
            raise LoadError(
                f"modernbert: layer_types={types} is not supported, only full attention in every n-th layer"
            )
    half, window = theirs.get("sliding_window"), theirs.get("local_attention", fields["window"])
    if half is not None and half * 2 != window:  # transformers' name for half of the window
        raise LoadError(f"modernbert: sliding_window={half!r} is not half of local_attention={window!r}: remove one")
    if theirs.get("rope_scaling"):
        raise LoadError(f"modernbert: rope_scaling={theirs['rope_scaling']!r} is not supported: remove it")
    for kind, (field, old_key) in ROPE.items():
        rope = (theirs.get("rope_parameters") or {}).get(kind) or {}
        if rope.get("rope_type", "default") != "default":
            raise LoadError(f"modernbert: rope_type={rope['rope_type']!r} is not supported, only 'default'")
        ours[field] = float(rope.get("rope_theta", theirs.get(old_key, fields[field])))
    if theirs.get("mlp_dropout") or theirs.get("embedding_dropout"):
        ours["dropout"] = max(theirs.get("mlp_dropout", 0.0), theirs.get("embedding_dropout", 0.0))
    return ours


def write(config: Any) -> dict[str, Any]:
    kinds = ["sliding_attention" if config.is_local(i) else "full_attention" for i in range(config.depth)]
    bases = {kind: {"rope_type": "default", "rope_theta": getattr(config, field)} for kind, (field, _) in ROPE.items()}
    return {
        "layer_types": kinds,
        "rope_parameters": bases,
        "mlp_dropout": config.dropout,
        "embedding_dropout": config.dropout,
        "classifier_dropout": config.dropout,
    }


def limit_global_every(config: Any) -> Any:
    """`global_every` of at most the depth: `layer_types` cannot express a longer interval."""
    return config.replace(global_every=min(config.global_every, config.depth))


MODERNBERT = CheckpointMapping(
    name="modernbert",
    base="model.",
    keys=KEYS,
    table=TABLE,
    head_tables=HEAD_TABLES,
    embeds={},
    only={
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "norm_bias": (False,),
        "decoder_bias": (True,),
        "classifier_bias": (False,),
    },
    heads={
        "ModernBertModel": {"head": None},
        "ModernBertForMaskedLM": {"head": "masked_lm"},
        "ModernBertForSequenceClassification": {"head": "classify"},
        "ModernBertForTokenClassification": {"head": "token"},
        "ModernBertForQuestionAnswering": {"head": "qa"},
    },
    read=read,
    write=write,
    rewrite=limit_global_every,
)
