"""Mapping of Gemma 1, 2 and 3 to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.llama.mapping import read_rope, write_rope
from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.utils.errors import LoadError

# {act}: the key of the activation. The first files of Gemma say "gelu" and mean its tanh approximation, as Gemma does.
KEYS = """
    vocab_size          = vocab_size
    max_length          = max_position_embeddings
    width               = hidden_size
    depth               = num_hidden_layers
    heads               = num_attention_heads
    kv_heads            = num_key_value_heads
    head_dim            = head_dim
    mlp_dim             = intermediate_size
    act                 = {act}
    norm_eps            = rms_norm_eps
    attention_dropout   = attention_dropout
    tie_word_embeddings = tie_word_embeddings
    bos_token_id        = bos_token_id
    eos_token_id        = eos_token_id
    pad_token_id        = pad_token_id
"""
ACT = "gelu_pytorch_tanh=gelu_tanh activations"
KEYS1 = KEYS.format(act=f"hidden_act {ACT} gelu=gelu_tanh")
KEYS2 = (
    KEYS.format(act=f"hidden_activation {ACT}")
    + """
    query_pre_attn_scalar = query_pre_attn_scalar
    logits_softcap        = final_logit_softcapping
    window                = sliding_window
"""
)

# `post_attention_layernorm` is the norm before the MLP in Gemma 1, and the one after attention in Gemma 2 and 3.
TABLE = """
    tokens.word.weight          = ~embed_tokens.weight
    blocks.*.norm1.weight       = ~layers.*.input_layernorm.weight
    blocks.*.mixer.q.@          = ~layers.*.self_attn.q_proj.@
    blocks.*.mixer.k.@          = ~layers.*.self_attn.k_proj.@
    blocks.*.mixer.v.@          = ~layers.*.self_attn.v_proj.@
    blocks.*.mixer.q_norm.@     = ~layers.*.self_attn.q_norm.@
    blocks.*.mixer.k_norm.@     = ~layers.*.self_attn.k_norm.@
    blocks.*.mixer.out.@        = ~layers.*.self_attn.o_proj.@
    blocks.*.post_norm1.weight  = ~layers.*.post_attention_layernorm.weight
    blocks.*.norm2.weight       = ~layers.*.pre_feedforward_layernorm.weight    if blocks.*.post_norm1.weight
    blocks.*.norm2.weight       = ~layers.*.post_attention_layernorm.weight
    blocks.*.post_norm2.weight  = ~layers.*.post_feedforward_layernorm.weight
    blocks.*.mlp.gate.@         = ~layers.*.mlp.gate_proj.@
    blocks.*.mlp.up.@           = ~layers.*.mlp.up_proj.@
    blocks.*.mlp.down.@         = ~layers.*.mlp.down_proj.@
    blocks.norm.weight          = ~norm.weight
    -                           = ~layers.*.self_attn.rotary_emb.inv_freq
    -                           = lm_head.weight
"""
HEAD_TABLES: dict[str | None, str] = {
    "lm": "head.proj.weight = lm_head.weight",
    "classify": "head.proj.weight = score.weight",
    "token": "head.proj.@ = score.@",
}
LOCAL, FULL = "sliding_attention", "full_attention"


def read1(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    return read_rope(theirs)


def read2(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Gemma 2: one rotary table, a window in every other layer, a bound of the attention scores."""
    ours = read_rope(theirs) | {"attention_softcap": theirs.get("attn_logit_softcapping", 50.0)}
    return ours | read_layers(fields, theirs, 2)


def read3(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Gemma 3: a rotary table for each kind of layer, in the spellings of transformers 4 and 5."""
    tables = theirs.get("rope_parameters") or {}
    full = {"rope_theta": theirs.get("rope_theta", 1e6)} | (theirs.get("rope_scaling") or {}) | (tables.get(FULL) or {})
    local = {"rope_theta": theirs.get("rope_local_base_freq", 1e4)} | (tables.get(LOCAL) or {})
    if (kind := local.get("rope_type", "default")) != "default":
        raise LoadError(f"rope_parameters: rope_type={kind!r} of {LOCAL} is not supported, only 'default'")
    ours = read_rope({"rope_parameters": full, "max_position_embeddings": fields["max_length"]})
    ours |= {"local_rope_base": float(local["rope_theta"])}
    return ours | read_layers(fields, theirs, theirs.get("sliding_window_pattern", 6))


def read_layers(fields: dict[str, Any], theirs: Mapping[str, Any], every: int) -> dict[str, Any]:
    """Which layers have a window: `layer_types`, or else all but every n-th."""
    depth = fields["depth"]
    if fields["window"] is None:
        return {"global_every": 1}
    types = theirs.get("layer_types") or [FULL if (layer + 1) % every == 0 else LOCAL for layer in range(depth)]
    full = [layer for layer, kind in enumerate(types) if kind == FULL]
    every = full[0] + 1 if full else depth + 1
    if list(types) != [FULL if (layer + 1) % every == 0 else LOCAL for layer in range(depth)]:
        raise LoadError(f"layer_types={types} is not supported, only full attention in every n-th of {depth} layers")
    return {"global_every": every, "window": fields["window"] if len(full) < depth else None}


def write_layers(config: Any) -> dict[str, Any]:
    types = [LOCAL if config.is_local(layer) else FULL for layer in range(config.depth)]
    window = 4096 if config.window is None else config.window  # transformers needs one, used or not
    scalar = whole(config.query_pre_attn_scalar)
    return {"layer_types": types, "sliding_window": window, "query_pre_attn_scalar": scalar}


def whole(value: float) -> int | float:
    """A number as an integer if it is one: transformers takes no other."""
    return int(value) if value == int(value) else value


def write2(config: Any) -> dict[str, Any]:
    return write_rope(config) | write_layers(config) | {"attn_logit_softcapping": config.attention_softcap}


def write3(config: Any) -> dict[str, Any]:
    rope = write_rope(config)
    if config.local_rope_base is None:
        raise ValueError("local_rope_base=None, where the other layers have rope_scaling")
    full = {"rope_type": "default", "rope_theta": rope["rope_theta"]} | (rope["rope_scaling"] or {})
    local = {"rope_type": "default", "rope_theta": config.local_rope_base}
    return write_layers(config) | {"rope_parameters": {FULL: full, LOCAL: local}}


def rewrite(config: Any) -> Any:
    """The config with its defaults and its pattern of layers spelled out as `read_layers` has them."""
    dim = config.head_dim or config.width // config.heads
    scalar = dim if config.query_pre_attn_scalar is None else config.query_pre_attn_scalar
    local = any(map(config.is_local, range(config.depth)))
    every = min(config.global_every, config.depth + 1) if local else 1
    same = config.attention == "softmax" and not local
    base = config.local_rope_base
    if base is None and config.qk_norm and config.rope_scaling is None:
        base = config.rope_base
    return config.replace(
        query_pre_attn_scalar=float(scalar),
        window=config.window if local else None,
        global_every=every,
        attention=None if same else config.attention,
        local_rope_base=base,
    )


def rewrite1(config: Any) -> Any:
    """`rewrite` for Gemma 1, whose files have neither a scalar nor layers with a window."""
    config = rewrite(config)
    usual = config.query_pre_attn_scalar == (config.head_dim or config.width // config.heads)
    return config.replace(query_pre_attn_scalar=None) if usual else config


def classes(prefix: str) -> dict[str, dict[str, Any]]:
    """The classes of transformers that are called `<prefix>ForCausalLM`, ..., and our fields for each."""
    return {
        f"{prefix}ForCausalLM": {"head": "lm"},
        f"{prefix}Model": {"head": None},
        f"{prefix}ForSequenceClassification": {"head": "classify", "pool": "last"},
        f"{prefix}ForTokenClassification": {"head": "token"},
    }


ONLY: dict[str, tuple[Any, ...]] = {"attention_bias": (False,), "use_bidirectional_attention": (None, False)}
OF_GEMMA1: dict[str, Any] = dict(width=3072, depth=28, heads=16, kv_heads=16, mlp_dim=24576)
OF_GEMMA2: dict[str, Any] = dict(
    width=2304, depth=26, kv_heads=4, mlp_dim=9216, window=4096, order="sandwich", query_pre_attn_scalar=256.0,
    logits_softcap=30.0,
)  # fmt: skip
OF_GEMMA3: dict[str, Any] = OF_GEMMA2 | dict(vocab_size=262208, max_length=131072, logits_softcap=None, qk_norm=True)

GEMMA = CheckpointMapping(
    name="gemma",
    base="model.",
    keys=KEYS1,
    table=TABLE,
    head_tables=HEAD_TABLES,
    heads=classes("Gemma"),
    defaults=OF_GEMMA1,
    only=ONLY,
    read=read1,
    write=write_rope,
    rewrite=rewrite1,
)
GEMMA2 = CheckpointMapping(
    name="gemma2",
    base="model.",
    keys=KEYS2,
    table=TABLE,
    head_tables=HEAD_TABLES,
    heads=classes("Gemma2"),
    defaults=OF_GEMMA2,
    only=ONLY,
    read=read2,
    write=write2,
    rewrite=rewrite,
)
GEMMA3 = CheckpointMapping(
    name="gemma3_text",
    base="model.",
    keys=KEYS2,
    table=TABLE,
    head_tables=HEAD_TABLES,
    heads={
        "Gemma3ForCausalLM": {"head": "lm"},
        "Gemma3TextModel": {"head": None},
        "Gemma3TextForSequenceClassification": {"head": "classify", "pool": "last"},
    },
    defaults=OF_GEMMA3,
    only=ONLY | {"attn_logit_softcapping": (None,)},
    read=read3,
    write=write3,
    rewrite=rewrite,
)
MAPPINGS = (GEMMA, GEMMA2, GEMMA3)
