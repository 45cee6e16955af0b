"""Mapping of BigBird to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.bert.mapping import HEAD_TABLES, KEYS, ONLY, TABLE, heads_of
from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.utils.errors import LoadError

# --- transformers -----------------------------------------------------------------------------------------------------

BIGBIRD_KEYS = f"""{KEYS}
    block_size         = block_size
    num_random_blocks  = num_random_blocks
    rescale_embeddings = rescale_embeddings
    qkv_bias           = use_bias
    sep_token_id       = sep_token_id
"""

BIGBIRD_HEADS: dict[str | None, str] = HEAD_TABLES | {
    None: f"""{HEAD_TABLES[None]}
    -                           = classifier.**
    -                           = qa_classifier.**
""",
    "classify": """
    head.dense.@                = classifier.dense.@
    head.proj.@                 = classifier.out_proj.@
""",
    "pool": "head.dense.@ = ~pooler.@",
    "qa": """
    head.mlp.up.@               = qa_classifier.intermediate.dense.@
    head.mlp.down.@             = qa_classifier.output.dense.@
    head.norm.@                 = qa_classifier.output.LayerNorm.@
    head.proj.@                 = qa_classifier.qa_outputs.@
""",
}

KINDS = {"block_sparse": None, "original_full": "softmax"}


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """`attention_type`: the published blocks, or full attention."""
    kind = theirs.get("attention_type", "block_sparse")
    if kind not in KINDS:
        raise LoadError(f"big_bird: attention_type={kind!r} is not supported, only {' or '.join(map(repr, KINDS))}")
    return {"attention": KINDS[kind]}


def write(config: Any) -> dict[str, Any]:
    return {"attention_type": "original_full" if config.attention == "softmax" else "block_sparse"}


BIGBIRD = CheckpointMapping(
    name="big_bird",
    base="bert.",
    keys=BIGBIRD_KEYS,
    table=TABLE + "    - = ~pooler.*\n",
    head_tables=BIGBIRD_HEADS,
    only=ONLY,
    heads=heads_of("BigBird"),
    assumes=("BigBirdModel",),
    read=read,
    write=write,
    # files do not say which blocks are seen in evaluation: transformers has one way, here it is chosen when loading
    rewrite=lambda config: config.replace(random_attention="always"),
)
