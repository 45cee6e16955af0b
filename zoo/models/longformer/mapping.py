"""Mapping of Longformer to transformers: config keys and tensor names, in both directions."""

from typing import Any

from zoo.models.bert.mapping import ONLY, TABLE, heads_of
from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.models.roberta.mapping import FILE_KEYS, ROBERTA_HEADS
from zoo.models.roberta.mapping import read as read_positions
from zoo.models.roberta.mapping import write as write_positions

# --- transformers -----------------------------------------------------------------------------------------------------

KEYS = f"""{FILE_KEYS}
    attention_window  = attention_window
    sep_token_id      = sep_token_id
"""

GLOBAL = """
    blocks.*.mixer.q_global.@   = ~encoder.layer.*.attention.self.query_global.@
    blocks.*.mixer.k_global.@   = ~encoder.layer.*.attention.self.key_global.@
    blocks.*.mixer.v_global.@   = ~encoder.layer.*.attention.self.value_global.@
    -                           = ~encoder.layer.*.attention.self.query_global.*
    -                           = ~encoder.layer.*.attention.self.key_global.*
    -                           = ~encoder.layer.*.attention.self.value_global.*
"""


def write(config: Any) -> dict[str, Any]:
    """The window of each layer, as in published files."""
    return write_positions(config) | {"attention_window": list(config.windows)}


LONGFORMER = CheckpointMapping(
    name="longformer",
    base="longformer.",
    keys=KEYS,
    table=TABLE + GLOBAL,
    head_tables=ROBERTA_HEADS,
    only=ONLY | {"onnx_export": (False,), "attention_mode": ("longformer",), "ignore_attention_mask": (False,)},
    defaults={"vocab_size": 30522, "norm_eps": 1e-12, "type_vocab_size": 2},
    heads={known: fields for known, fields in heads_of("Longformer").items() if "PreTraining" not in known},
    assumes=("LongformerModel",),
    read=read_positions,
    write=write,
)
