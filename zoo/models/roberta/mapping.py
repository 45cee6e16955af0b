"""Mapping of RoBERTa and XLM-R to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.bert.mapping import HEAD_TABLES, KEYS, ONLY, TABLE, heads_of
from zoo.models.mapping.config_keys import CheckpointMapping

# --- transformers -----------------------------------------------------------------------------------------------------

ROBERTA_HEADS: dict[str | None, str] = HEAD_TABLES | {
    None: """
    -                           = lm_head.**
    -                           = classifier.**
    -                           = qa_outputs.*
""",
    "masked_lm": """
    head.dense.@                = lm_head.dense.@
    head.norm.@                 = lm_head.layer_norm.@
    head.proj.weight            = lm_head.decoder.weight
    head.proj.bias              = lm_head.decoder.bias | lm_head.bias   if head.proj.weight
    head.proj.bias              = lm_head.bias | lm_head.decoder.bias
    -                           = lm_head.decoder.*
    -                           = lm_head.bias
""",
    "classify": """
    head.dense.@                = classifier.dense.@
    head.proj.@                 = classifier.out_proj.@
""",
}
FILE_KEYS = "\n".join(line for line in KEYS.splitlines() if "max_length" not in line)


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Their `max_position_embeddings` includes the rows up to the padding id, which no token uses."""
    return {"max_length": theirs.get("max_position_embeddings", 514) - (fields["pad_token_id"] or 0) - 1}


def write(config: Any) -> dict[str, Any]:
    return {"max_position_embeddings": config.max_length + config.first_position}


def mapping(name: str, cls: str, **defaults: Any) -> CheckpointMapping:
    return CheckpointMapping(
        name=name,
        base="roberta.",
        keys=FILE_KEYS,
        table=TABLE,
        head_tables=ROBERTA_HEADS,
        only=ONLY,
        embeds=dict(pooler=None),
        defaults={"norm_eps": 1e-12, "type_vocab_size": 2, **defaults},
        heads={known: fields for known, fields in heads_of(cls).items() if "PreTraining" not in known},
        read=read,
        write=write,
    )


MAPPINGS = (mapping("roberta", "Roberta"), mapping("xlm-roberta", "XLMRoberta", vocab_size=30522))
