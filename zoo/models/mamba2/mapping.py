"""Mapping of Mamba-2 to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.mamba import mapping as mamba
from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.utils.errors import LoadError

KEYS = f"""{mamba.KEYS}
    heads             = num_heads
    groups            = n_groups
"""

TABLE = f"""{mamba.SHARED_TABLE}
    blocks.*.mixer.dt_bias      = ~layers.*.mixer.dt_bias
    blocks.*.mixer.norm.weight  = ~layers.*.mixer.norm.weight
"""

UNLIMITED = ([0.0, float("inf")], [0.0, {"__float__": "Infinity"}])  # as transformers 4 and 5 write it


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    inner = int(fields["expand"] * fields["width"])
    head_dim = theirs.get("head_dim", 64)
    if fields["heads"] * head_dim != inner:
        raise LoadError(
            f"num_heads={fields['heads']} heads of head_dim={head_dim} are not expand * hidden_size = {inner} channels"
        )
    return {}


def write(config: Any) -> dict[str, Any]:
    if config.mlp_dim is not None:
        raise ValueError(f"mlp_dim={config.mlp_dim}")
    return {"head_dim": config.inner // config.heads}


def rewrite(config: Any) -> Any:
    """The config without what only attention layers use, if it has none."""
    return config if config.uses_attention() else config.replace(kv_heads=None, head_dim=None)


TRANSFORMERS = CheckpointMapping(
    name="mamba2",
    base="backbone.",
    keys=KEYS,
    table=TABLE,
    head_tables={"lm": "head.proj.weight = lm_head.weight"},
    defaults=dict(
        vocab_size=32768, width=4096, depth=64, heads=128, groups=8, tie_word_embeddings=False, pad_token_id=1,
        bos_token_id=0, eos_token_id=2,
    ),
    heads={"Mamba2ForCausalLM": {"head": "lm"}, "Mamba2Model": {"head": None}},
    only={"time_step_limit": UNLIMITED},
    read=read,
    write=write,
    rewrite=rewrite,
)  # fmt: skip
