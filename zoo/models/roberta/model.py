"""RoBERTa (Liu et al. 2019) and XLM-R (Conneau et al. 2020): BERT without token types and with other heads; positions
start after the padding id."""

from dataclasses import dataclass
from typing import Any

from zoo.models.bert.model import Bert, BertConfig
from zoo.models.family import Family
from zoo.models.roberta.mapping import MAPPINGS


@dataclass(frozen=True, kw_only=True)
class RobertaConfig(BertConfig):
    """See BertConfig. max_length counts tokens; the position table has pad_token_id + 1 further, unused rows."""

    vocab_size: int = 50265
    norm_eps: float = 1e-5
    type_vocab_size: int = 1
    pad_token_id: int | None = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pad_token_id is None:
            raise ValueError("pad_token_id=None: RoBERTa needs a padding id, its positions start after it")

    @property
    def first_position(self) -> int:
        return (self.pad_token_id or 0) + 1


class Roberta(Bert):
    """forward(input_ids [B, N], attention_mask) -> output of the head; see TextModel."""

    head_act = "gelu"  # independent of the activation of the blocks


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

FAMILY = Family("roberta", Roberta, RobertaConfig, "text", VARIANTS, SOURCES, {"transformers": MAPPINGS})
