"""Mapping of LLaMA, Mistral, Qwen2 and Qwen3 to transformers: config keys and tensor names, in both directions."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.nn.registry import for_layer
from zoo.utils.errors import LoadError

KEYS = """
    vocab_size        = vocab_size
    max_length        = max_position_embeddings
    width             = hidden_size
    depth             = num_hidden_layers
    heads             = num_attention_heads
    kv_heads          = num_key_value_heads
    head_dim          = head_dim
    mlp_dim           = intermediate_size
    act               = hidden_act              activations
    norm_eps          = rms_norm_eps
    attention_dropout = attention_dropout
    tie_word_embeddings = tie_word_embeddings
    bos_token_id      = bos_token_id
    eos_token_id      = eos_token_id
    pad_token_id      = pad_token_id
"""

# Old files contain the rotary frequencies of each layer, and some the LM head as well as the tied word embeddings.
TABLE = """
    tokens.word.weight          = ~embed_tokens.weight
    blocks.*.norm1.weight       = ~layers.*.input_layernorm.weight
    blocks.*.mixer.q.@          = ~layers.*.self_attn.q_proj.@
    blocks.*.mixer.k.@          = ~layers.*.self_attn.k_proj.@
    blocks.*.mixer.v.@          = ~layers.*.self_attn.v_proj.@
    blocks.*.mixer.q_norm.@     = ~layers.*.self_attn.q_norm.@
    blocks.*.mixer.k_norm.@     = ~layers.*.self_attn.k_norm.@
    blocks.*.mixer.out.@        = ~layers.*.self_attn.o_proj.@
    blocks.*.norm2.weight       = ~layers.*.post_attention_layernorm.weight
    blocks.*.mlp.gate.@         = ~layers.*.mlp.gate_proj.@
    blocks.*.mlp.up.@           = ~layers.*.mlp.up_proj.@
    blocks.*.mlp.down.@         = ~layers.*.mlp.down_proj.@
    blocks.norm.weight          = ~norm.weight
    -                           = ~layers.*.self_attn.rotary_emb.inv_freq
    -                           = ~rotary_emb.inv_freq
    -                           = lm_head.weight
"""
HEAD_TABLES: dict[str | None, str] = {
    "lm": "head.proj.weight = lm_head.weight",
    "classify": "head.proj.weight = score.weight",
    "token": "head.proj.@ = score.@",
}

IGNORED = {"type", "rope_type", "rope_theta"}


def read_rope(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary base and scaling: `rope_parameters` in transformers 5, `rope_theta` and `rope_scaling` in 4."""
    rope, old = theirs.get("rope_parameters") or {}, theirs.get("rope_scaling") or {}
    if rope and any(rope.get(name) != value for name, value in old.items()):  # 5 would take the old one, without a base
        raise LoadError(
            f"rope_parameters={rope} and rope_scaling={old} differ: remove rope_scaling, and write what it says, such "
            f"as the factor, into rope_parameters beside rope_theta"
        )
    rope = rope or old
    base = rope.get("rope_theta", theirs.get("rope_theta"))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if (partial := theirs.get("partial_rotary_factor", rope.get("partial_rotary_factor", 1))) != 1:
        raise LoadError(f"partial_rotary_factor={partial} is not supported: rotary positions must use all channels")
    ours: dict[str, Any] = {} if base is None else {"rope_base": float(base)}
    if kind == "default":
        return ours | {"rope_scaling": None}
    options = {name: value for name, value in rope.items() if name not in IGNORED | {"partial_rotary_factor"}}
    if kind == "yarn":
        options.setdefault("original_max_position_embeddings", theirs.get("max_position_embeddings"))
    return ours | {"rope_scaling": {"kind": kind} | options}


def write_rope(config: Any) -> dict[str, Any]:
    """Rotary base and scaling in the form that transformers 4 and 5 both read."""
    scaling = config.rope_scaling
    if scaling is not None:
        scaling = {"rope_type": scaling["kind"]} | {k: v for k, v in scaling.items() if k != "kind"}
    return {"rope_theta": config.rope_base, "rope_scaling": scaling}


def window(attention: Any) -> int | None:
    """The width of a sliding window without further options, None for other attention."""
    is_window = isinstance(attention, dict) and attention.keys() == {"kind", "window"} and attention["kind"] == "local"
    return attention["window"] if is_window else None


def read_mistral(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Sliding window attention, unless `sliding_window` is null."""
    width = theirs.get("sliding_window", 4096)
    return read_rope(theirs) | {"attention": "softmax" if width is None else {"kind": "local", "window": width}}


def write_mistral(config: Any) -> dict[str, Any]:
    return write_rope(config) | {"sliding_window": window(config.attention)}


def read_qwen(fields: dict[str, Any], theirs: Mapping[str, Any], **fixed: Any) -> dict[str, Any]:
    """Sliding window attention in the layers from `max_window_layers` on, or as listed in `layer_types`."""
    ours = read_rope(theirs) | fixed | {"attention": "softmax"}
    width = theirs.get("sliding_window", 4096)
    if not theirs.get("use_sliding_window", False) or width is None:
        return ours
    first = theirs.get("max_window_layers", 28)
    types = theirs.get("layer_types") or [LAYERS[layer >= first] for layer in range(fields["depth"])]
    if unknown := [name for name in types if name not in LAYERS]:
        raise LoadError(f"layer_types: {unknown[0]!r} is not supported, only {' and '.join(LAYERS)}")
    kinds: list[Any] = [{"kind": "local", "window": width} if name == LAYERS[1] else "softmax" for name in types]
    uniform = all(kind == kinds[0] for kind in kinds)
    return ours | {"attention": kinds[0] if uniform else tuple(kinds)}


LAYERS = ("full_attention", "sliding_attention")


def write_qwen(config: Any) -> dict[str, Any]:
    kinds = [for_layer(config.attention, layer, config.depth) for layer in range(config.depth)]
    widths = [window(kind) for kind in kinds]
    used = {width for width in widths if width is not None}
    if len(used) > 1 or not all(window(kind) or kind == "softmax" for kind in kinds):
        raise ValueError(f"attention={config.attention!r}")
    first = next((layer for layer, width in enumerate(widths) if width), config.depth)
    return write_rope(config) | {
        "use_sliding_window": bool(used),
        "sliding_window": used.pop() if used else None,
        "max_window_layers": first,
        "layer_types": [LAYERS[width is not None] for width in widths],
    }


def mapping(
    name: str, read: Callable[..., dict[str, Any]], write: Callable[..., dict[str, Any]], **own: Any
) -> CheckpointMapping:
    """The mapping of one model type, whose classes are called `<Prefix>ForCausalLM`, ..."""
    prefix = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[name]
    common = {"norm_eps": 1e-6, "rope_base": 10000.0, "tie_word_embeddings": False}
    return CheckpointMapping(
        name=name,
        base="model.",
        keys=KEYS,
        table=TABLE,
        head_tables=HEAD_TABLES,
        defaults=common | own,
        heads={
            f"{prefix}ForCausalLM": {"head": "lm"},
            f"{prefix}Model": {"head": None},
            f"{prefix}ForSequenceClassification": {"head": "classify", "pool": "last"},
            f"{prefix}ForTokenClassification": {"head": "token"},
        },
        only={"attention_bias": (False,), "mlp_bias": (False,)},
        read=read,
        write=write,
    )


MAPPINGS = (
    mapping(
        "llama",
        lambda fields, theirs: read_rope(theirs),
        write_rope,
        max_length=2048,
        bos_token_id=1,
        eos_token_id=2,
    ),
    mapping(
        "mistral",
        read_mistral,
        write_mistral,
        mlp_dim=14336,
        kv_heads=8,
        max_length=131072,
        bos_token_id=1,
        eos_token_id=2,
    ),
    mapping(
        "qwen2",
        partial(read_qwen, qkv_bias=True),
        write_qwen,
        vocab_size=151936,
        mlp_dim=22016,
        max_length=32768,
    ),
    mapping(
        "qwen3",
        partial(read_qwen, qk_norm=True),
        write_qwen,
        vocab_size=151936,
        mlp_dim=22016,
        max_length=32768,
        head_dim=128,
    ),
)
