"""Mapping of NomicBERT to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.bert.mapping import HEAD_TABLES, KEYS, heads_of
from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.utils.errors import LoadError

TABLE = """
    tokens.word.weight          = ~embeddings.word_embeddings.weight
    tokens.types.weight         = ~embeddings.token_type_embeddings.weight
    tokens.norm.@               = ~embeddings.LayerNorm.@
    blocks.*.mixer.q.@          = ~layers.*.self_attn.q_proj.@
    blocks.*.mixer.k.@          = ~layers.*.self_attn.k_proj.@
    blocks.*.mixer.v.@          = ~layers.*.self_attn.v_proj.@
    blocks.*.mixer.out.@        = ~layers.*.self_attn.o_proj.@
    blocks.*.norm1.@            = ~layers.*.post_attention_layernorm.@
    blocks.*.mlp.gate.@         = ~layers.*.mlp.gate_proj.@
    blocks.*.mlp.up.@           = ~layers.*.mlp.up_proj.@
    blocks.*.mlp.down.@         = ~layers.*.mlp.down_proj.@
    blocks.*.norm2.@            = ~layers.*.post_mlp_layernorm.@
    -                           = ~pooler.dense.*
    -                           = cls.predictions.decoder.*
"""

NOMIC_HEADS: dict[str | None, str] = HEAD_TABLES | {
    "masked_lm": HEAD_TABLES["masked_lm"].replace("transform.LayerNorm", "transform.layer_norm"),
}


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The base of the rotary frequencies."""
    rope = theirs.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise LoadError(f"nomic_bert: rope_type={rope['rope_type']!r} is not supported, only 'default'")
    return {"rope_base": float(rope.get("rope_theta", fields["rope_base"]))}


def write(config: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base}}


NOMIC_BERT = CheckpointMapping(
    name="nomic_bert",
    base="nomic_bert.",
    keys=KEYS + "    head_dim = head_dim\n",
    table=TABLE,
    head_tables=NOMIC_HEADS,
    embeds=dict(pooler=None),
    heads={cls: head for cls, head in heads_of("NomicBert").items() if "Pre" not in cls and "Question" not in cls},
    read=read,
    write=write,
)
