"""Mapping of Mamba to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.mapping.config_keys import CheckpointMapping

# transformers knows no length of the texts and keeps max_position_embeddings as an attribute of its config
KEYS = """
    vocab_size        = vocab_size
    max_length        = max_position_embeddings
    width             = hidden_size
    depth             = num_hidden_layers
    act               = hidden_act              activations
    norm_eps          = layer_norm_epsilon
    state             = state_size
    conv              = conv_kernel
    expand            = expand
    bias              = use_bias
    conv_bias         = use_conv_bias
    tie_word_embeddings = tie_word_embeddings
    bos_token_id      = bos_token_id
    eos_token_id      = eos_token_id
    pad_token_id      = pad_token_id
"""

# The word embeddings have an older name, and some files the LM head as well as the tied word embeddings.
SHARED_TABLE = """
    tokens.word.weight          = ~embeddings.weight | ~embedding.weight
    blocks.*.norm1.weight       = ~layers.*.norm.weight
    blocks.*.mixer.in_proj.@    = ~layers.*.mixer.in_proj.@
    blocks.*.mixer.conv.@       = ~layers.*.mixer.conv1d.@
    blocks.*.mixer.A_log        = ~layers.*.mixer.A_log
    blocks.*.mixer.D            = ~layers.*.mixer.D
    blocks.*.mixer.out_proj.@   = ~layers.*.mixer.out_proj.@
    blocks.norm.weight          = ~norm_f.weight
    -                           = lm_head.weight
"""

TABLE = f"""{SHARED_TABLE}
    blocks.*.mixer.x_proj.@     = ~layers.*.mixer.x_proj.@
    blocks.*.mixer.dt_proj.@    = ~layers.*.mixer.dt_proj.@
"""

# What their config omits, where its default is not that of ours.
DEFAULTS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    rank = theirs.get("time_step_rank", "auto")
    return {"dt_rank": None if rank in ("auto", -(-fields["width"] // 16)) else rank}


def write(config: Any) -> dict[str, Any]:
    if config.mlp_dim is not None:
        raise ValueError(f"mlp_dim={config.mlp_dim}")
    return {"time_step_rank": config.dt_rank or -(-config.width // 16)}


def rewrite(config: Any) -> Any:
    """The config without what only attention layers use, if it has none, and with a dt_rank that is the usual one."""
    if config.dt_rank == -(-config.width // 16):
        config = config.replace(dt_rank=None)
    return config if config.uses_attention() else config.replace(heads=1, kv_heads=None, head_dim=None)


TRANSFORMERS = CheckpointMapping(
    name="mamba",
    base="backbone.",
    keys=KEYS,
    table=TABLE,
    head_tables={"lm": "head.proj.weight = lm_head.weight"},
    defaults=DEFAULTS,
    heads={"MambaForCausalLM": {"head": "lm"}, "MambaModel": {"head": None}},
    read=read,
    write=write,
    rewrite=rewrite,
)
