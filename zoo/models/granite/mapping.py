"""Mapping of Granite 4.0 to transformers (`granitemoehybrid`): config keys and tensor names, in both directions."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.nn.mixers.mamba2 import Mamba2
from zoo.nn.registry import for_layer
from zoo.utils.errors import LoadError

KEYS = """
    vocab_size           = vocab_size
    max_length           = max_position_embeddings
    width                = hidden_size
    depth                = num_hidden_layers
    heads                = num_attention_heads
    kv_heads             = num_key_value_heads
    mlp_dim              = shared_intermediate_size
    act                  = hidden_act              activations
    norm_eps             = rms_norm_eps
    attention_dropout    = attention_dropout
    tie_word_embeddings  = tie_word_embeddings
    embedding_multiplier = embedding_multiplier
    residual_multiplier  = residual_multiplier
    logits_scaling       = logits_scaling
    bos_token_id         = bos_token_id
    eos_token_id         = eos_token_id
    pad_token_id         = pad_token_id
"""

TABLE = """
    tokens.word.weight            = ~embed_tokens.weight
    blocks.*.norm1.weight         = ~layers.*.input_layernorm.weight
    blocks.*.mixer.q.@            = ~layers.*.self_attn.q_proj.@
    blocks.*.mixer.k.@            = ~layers.*.self_attn.k_proj.@
    blocks.*.mixer.v.@            = ~layers.*.self_attn.v_proj.@
    blocks.*.mixer.out.@          = ~layers.*.self_attn.o_proj.@
    blocks.*.mixer.in_proj.@      = ~layers.*.mamba.in_proj.@
    blocks.*.mixer.conv.@         = ~layers.*.mamba.conv1d.@
    blocks.*.mixer.dt_bias        = ~layers.*.mamba.dt_bias
    blocks.*.mixer.A_log          = ~layers.*.mamba.A_log
    blocks.*.mixer.D              = ~layers.*.mamba.D
    blocks.*.mixer.norm.weight    = ~layers.*.mamba.norm.weight
    blocks.*.mixer.out_proj.@     = ~layers.*.mamba.out_proj.@
    blocks.*.norm2.weight         = ~layers.*.post_attention_layernorm.weight
    blocks.*.mlp.{gate,up}.weight = ~layers.*.shared_mlp.input_linear.weight
    blocks.*.mlp.down.weight      = ~layers.*.shared_mlp.output_linear.weight
    blocks.norm.weight            = ~norm.weight
    -                             = lm_head.weight
"""
HEAD_TABLES: dict[str | None, str] = {"lm": "head.proj.weight = lm_head.weight"}

LAYERS = {  # the names of a layer today and in older files
    "linear_attention": "mamba2", "mamba": "mamba2", "full_attention": "attention", "attention": "attention",
}  # fmt: skip
DEFAULTS: dict[str, Any] = dict(  # of transformers, for keys that a file lacks
    mamba_n_heads=128, mamba_n_groups=1, mamba_d_state=256, mamba_d_conv=4, mamba_expand=2, mamba_conv_bias=True,
    mamba_proj_bias=False,
)  # fmt: skip
NO_LIMITS = [0.0, math.inf], [0.0, {"__float__": "Infinity"}]  # of time steps, in the two forms of files
OPTIONS = {  # of our mixer -> their keys
    "heads": "mamba_n_heads", "groups": "mamba_n_groups", "state": "mamba_d_state", "conv": "mamba_d_conv",
    "expand": "mamba_expand", "conv_bias": "mamba_conv_bias", "bias": "mamba_proj_bias",
}  # fmt: skip


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The mixer of each layer, the scale of attention and the rotary base."""
    limits = theirs.get("time_step_limit") or NO_LIMITS[0]
    if list(limits) not in NO_LIMITS:
        raise LoadError(f"granitemoehybrid: time_step_limit={limits!r} is not supported, only [0.0, Infinity]")
    types = theirs.get("layer_types") or ["linear_attention"] * fields["depth"]
    if unknown := [name for name in types if name not in LAYERS]:
        raise LoadError(f"layer_types: {unknown[0]!r} is not supported, only {', '.join(LAYERS)}")
    if len(types) != fields["depth"]:
        raise LoadError(f"layer_types has {len(types)} entries, and num_hidden_layers is {fields['depth']}")
    kinds = [LAYERS[name] for name in types]
    mamba = {"kind": "mamba2"} | {ours: theirs.get(name, DEFAULTS[name]) for ours, name in OPTIONS.items()}
    mamba["act"] = fields["act"]
    mixers = tuple(mamba if kind == "mamba2" else kind for kind in kinds)
    rope = theirs.get("rope_parameters") or {}
    if (kind := rope.get("rope_type", "default")) != "default":
        raise LoadError(f"rope_parameters: rope_type={kind!r} is not supported, only 'default'")
    uses_rope = theirs.get("position_embedding_type") == "rope"
    return {
        "mixer": None if set(kinds) == {"attention"} else mixers,
        "attention_multiplier": theirs.get("attention_multiplier", 1.0),
        "rope_base": float(rope.get("rope_theta", theirs.get("rope_theta", 10000.0))) if uses_rope else None,
    }


def write(config: Any) -> dict[str, Any]:
    mixers = [for_layer(config.mixer, layer, config.depth) or "attention" for layer in range(config.depth)]
    mambas = [options(mixer, config) for mixer in mixers if mixer != "attention"]
    if any(mamba != mambas[0] for mamba in mambas):
        raise ValueError("mixer: all layers of Mamba-2 must have the same options")
    scale = config.attention_multiplier
    none = {"mamba_n_heads": 1, "mamba_d_head": 2 * config.width}  # transformers checks them even where none is used
    return (mambas[0] if mambas else none) | {
        "layer_types": ["full_attention" if mixer == "attention" else "linear_attention" for mixer in mixers],
        "attention_multiplier": (config.head_dim or config.width // config.heads) ** -0.5 if scale is None else scale,
        "position_embedding_type": None if config.rope_base is None else "rope",
        "rope_theta": config.rope_base or 10000.0,
    }


def rewrite(config: Any) -> Any:
    """The config with all options of its mixers and its scale written out, as `read` has them."""
    try:
        theirs = write(config)
    except ValueError:  # of mixers that transformers lacks, which the export names
        return config
    fields = {"depth": config.depth, "act": config.act}
    return config.replace(**read(fields, theirs))


def options(mixer: Any, config: Any) -> dict[str, Any]:
    """The settings of a mixer of Mamba-2 under their names. Raises ValueError for another mixer."""
    given = dict(mixer) if isinstance(mixer, dict) else {"kind": mixer}
    if given.pop("kind") != "mamba2" or given.get("act", "silu") != config.act:
        raise ValueError(f"mixer={mixer!r}")
    parameters = inspect.signature(Mamba2).parameters
    values = {ours: given.get(ours, parameters[ours].default) for ours in OPTIONS}
    if values["heads"] is None:
        values["heads"] = max(int(values["expand"] * config.width) // 64, 1)
    inner = int(values["expand"] * config.width)
    return {OPTIONS[ours]: value for ours, value in values.items()} | {"mamba_d_head": inner // values["heads"]}


TRANSFORMERS = CheckpointMapping(
    name="granitemoehybrid",
    base="model.",
    keys=KEYS,
    table=TABLE,
    head_tables=HEAD_TABLES,
    defaults=dict(
        vocab_size=32000, max_length=2048, width=4096, depth=32, heads=32, kv_heads=None, mlp_dim=1024, norm_eps=1e-6,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    ),
    heads={"GraniteMoeHybridForCausalLM": {"head": "lm"}, "GraniteMoeHybridModel": {"head": None}},
    only={"attention_bias": (False,), "num_local_experts": (0,)},
    aliases={"layers_block_type": "layer_types"},
    read=read,
    write=write,
    rewrite=rewrite,
    writes={"num_local_experts": 0, "num_experts_per_tok": 0},
)  # fmt: skip
