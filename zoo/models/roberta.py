"""RoBERTa (Liu et al. 2019) and XLM-R (Conneau et al. 2020): BERT without token types, its positions counted from
behind the padding id, with heads of their own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..formats.dialect import Dialect
from .base import Family
from .bert import HEAD_TABLES, KEYS, ONLY, TABLE, Bert, BertConfig, heads_of


@dataclass(frozen=True, kw_only=True)
class RobertaConfig(BertConfig):
    """See BertConfig. max_length counts tokens; the position table has pad_id + 1 rows more, which no token takes."""

    vocab_size: int = 50265
    eps: float = 1e-5
    types: int = 1
    pad_id: int | None = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pad_id is None:
            raise ValueError("pad_id=None: a RoBERTa counts its positions from behind the padding id")

    @property
    def first_position(self) -> int:
        return (self.pad_id or 0) + 1


class Roberta(Bert):
    """forward(input_ids [B, N], attention_mask) -> what the head answers; see TextModel."""

    head_act = "gelu"  # whatever that of the blocks


LARGE = dict(width=1024, depth=24, heads=16)
XLM = dict(vocab_size=250002)
VARIANTS: dict[str, dict[str, Any]] = {
    "roberta_small": dict(width=512, depth=4, heads=8),
    "roberta_base": {},
    "roberta_large": LARGE,
    "distilroberta_base": dict(depth=6),
    "xlm_roberta_base": XLM,
    "xlm_roberta_large": XLM | LARGE,
}

SOURCES = {
    "roberta_base": "hf-hub:FacebookAI/roberta-base",
    "roberta_large": "hf-hub:FacebookAI/roberta-large",
    "distilroberta_base": "hf-hub:distilbert/distilroberta-base",
    "xlm_roberta_base": "hf-hub:FacebookAI/xlm-roberta-base",
    "xlm_roberta_large": "hf-hub:FacebookAI/xlm-roberta-large",
}

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
    """Their table counts the rows that no token takes."""
    return {"max_length": theirs.get("max_position_embeddings", 514) - (fields["pad_id"] or 0) - 1}


def write(config: Any) -> dict[str, Any]:
    return {"max_position_embeddings": config.max_length + config.first_position}


def dialect(name: str, cls: str, **defaults: Any) -> Dialect:
    return Dialect(
        name=name,
        base="roberta.",
        keys=FILE_KEYS,
        table=TABLE,
        head_tables=ROBERTA_HEADS,
        only=ONLY,
        embeds=dict(pooler=None),
        defaults={"eps": 1e-12, "types": 2, **defaults},
        heads={known: fields for known, fields in heads_of(cls).items() if "PreTraining" not in known},
        read=read,
        write=write,
    )


DIALECTS = (dialect("roberta", "Roberta"), dialect("xlm-roberta", "XLMRoberta", vocab_size=30522))

FAMILY = Family("roberta", Roberta, RobertaConfig, "text", VARIANTS, SOURCES, {"transformers": DIALECTS})
