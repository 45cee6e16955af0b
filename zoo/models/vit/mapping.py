"""Mapping of Vision Transformers to timm and transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.utils.errors import LoadError

# --- timm -----------------------------------------------------------------------------------------------------------

TIMM_KEYS = """
    image_size        = img_size
    patch_size        = patch_size
    in_chans          = in_chans
    num_classes       = num_classes
    width             = embed_dim
    depth             = depth
    heads             = num_heads
    act               = act_layer          swish=silu
    qkv_bias          = qkv_bias
    layer_scale       = init_values
    class_token       = class_token
    registers         = reg_tokens
    pre_norm          = pre_norm
    dropout           = proj_drop_rate
    attention_dropout = attn_drop_rate
    drop_path         = drop_path_rate
"""

TIMM_TABLE = """
    patches.proj.@              = patch_embed.proj.@
    patches.cls                 = cls_token              row0 row0
    patches.dist                = dist_token             row0 row0
    patches.registers           = reg_token              row0
    patches.norm.@              = norm_pre.@
    patches.positions           = pos_embed              row0
    blocks.*.norm1.@            = blocks.*.norm1.@
    blocks.*.mixer.{q,k,v}.@    = blocks.*.attn.qkv.@
    blocks.*.mixer.out.@        = blocks.*.attn.proj.@
    blocks.*.scale1.gamma       = blocks.*.ls1.gamma
    blocks.*.norm2.@            = blocks.*.norm2.@
    blocks.*.mlp.{gate,up}.@    = blocks.*.mlp.fc1.@
    blocks.*.mlp.up.@           = blocks.*.mlp.fc1.@
    blocks.*.mlp.down.@         = blocks.*.mlp.fc2.@
    blocks.*.scale2.gamma       = blocks.*.ls2.gamma
    blocks.norm.@               = norm.@
    head.probe                  = attn_pool.latent       row0 row0
    head.mixer.q.@              = attn_pool.q.@
    head.mixer.{k,v}.@          = attn_pool.kv.@
    head.mixer.out.@            = attn_pool.proj.@
    head.mlp.up.@               = attn_pool.mlp.fc1.@
    head.mlp.down.@             = attn_pool.mlp.fc2.@
    head.norm.@                 = attn_pool.norm.@       if head.probe
    head.norm.@                 = fc_norm.@
    head.proj.@                 = head.@
    head.proj_dist.@            = head_dist.@
    -                           = mask_token
"""

POOLS = {"token": "cls", "avg": "mean", "map": "map"}


def read_timm(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """MLP width, pooling, its norm, and the prefix tokens with positions, from timm's arguments."""
    ours: dict[str, Any] = {"act": fields["act"] or "gelu"}
    if isinstance(size := fields["image_size"], tuple) and size[0] == size[1]:
        ours["image_size"] = size[0]
    if "mlp_ratio" in theirs or (fields["gated_mlp"] and "embed_dim" in theirs):
        inner = int(fields["width"] * theirs.get("mlp_ratio", 2.66667 * 2))
        ours["mlp_dim"] = inner // 2 if fields["gated_mlp"] else inner
    pool = theirs.get("global_pool", "map" if fields["pool"] == "map" else "token")
    if pool not in POOLS and (pool or fields["num_classes"]):
        raise LoadError(f"timm: global_pool={pool!r} is not supported, only {', '.join(POOLS)}")
    included = bool(theirs.get("pool_include_prefix", False))  # in the pooling: the prefix tokens, as in our "map"
    if included != (pool == "map") and prefix_tokens(fields) and pool in ("map", "avg"):
        raise LoadError(
            f"timm: global_pool={pool!r} with pool_include_prefix={included} is not supported in a model with "
            f"{prefix_tokens(fields)} class or register tokens (reg_tokens={fields['registers']})"
        )
    sides = zip(sizes(fields["image_size"]), sizes(fields["patch_size"]))
    ours["cut_edges"] = any(side % patch for side, patch in sides)
    norm = theirs.get("fc_norm")
    ours |= {"pool": POOLS.get(pool, "cls"), "pool_norm": pool == "avg" if norm is None else norm}
    ours["head"] = None if not pool else "classify" if fields["num_classes"] else "pool"
    bare = theirs.get("no_embed_class", fields["position_prefix"] == 0)
    ours["position_prefix"] = 0 if bare else prefix_tokens(fields) if fields["registers"] else None
    return ours


def sizes(size: Any) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)


def write_timm(config: Any) -> dict[str, Any]:
    size = config.image_size
    if config.pool not in POOLS.values():
        raise ValueError(f"pool={config.pool!r}")
    pool = next(name for name, word in POOLS.items() if word == config.pool)
    return {
        "img_size": [size, size] if isinstance(size, int) else list(size),
        "num_classes": config.num_classes if config.head == "classify" else 0,
        "mlp_ratio": ratio_for((config.mlp_dim or 4 * config.width) * (1 + config.gated_mlp), config.width),
        "global_pool": pool if config.head else "",
        "fc_norm": config.pool_norm,
        "no_embed_class": config.position_prefix == 0,
    } | ({"pool_include_prefix": True} if pool == "map" and prefix_tokens(config.to_dict()) else {})


def ratio_for(inner: int, width: int) -> float:
    """A ratio for which int(width * ratio) is `inner`."""
    ratio = inner / width
    return ratio if int(width * ratio) == inner else (inner + 0.5) / width


def prefix_tokens(fields: Mapping[str, Any]) -> int:
    """The number of prefix tokens: class token, distillation token, registers."""
    return fields["class_token"] + bool(fields["distilled"]) + fields["registers"]


def positions_for_timm(config: Any) -> Any:
    """An equivalent config with positions for all prefix tokens or for none, as in timm."""
    every = prefix_tokens(config.to_dict())
    rows = every - config.registers if config.position_prefix is None else config.position_prefix
    if rows == every:
        return config.replace(position_prefix=every if config.registers else None)
    return config.replace(position_prefix=0)


TIMM = CheckpointMapping(
    name="timm's VisionTransformer",
    keys=TIMM_KEYS,
    table=TIMM_TABLE,
    only={
        "qk_norm": (False,),
        "scale_attn_norm": (False,),
        "scale_mlp_norm": (False,),
        "proj_bias": (True,),
        "pos_embed": ("learn",),
        "final_norm": (True,),
        "embed_norm_layer": (None,),
        "norm_layer": (None,),
        "dynamic_img_pad": (False,),
    },
    others=(
        "mlp_ratio",
        "global_pool",
        "fc_norm",
        "pool_include_prefix",
        "no_embed_class",
        "dynamic_img_size",
        "strict_img_size",
        "weight_init",
        "fix_init",
        "drop_rate",
        "pos_drop_rate",
        "patch_drop_rate",
    ),
    read=read_timm,
    write=write_timm,
    rewrite=positions_for_timm,
    architectures=(
        "vit_base_patch16_224",
        "deit_base_distilled_patch16_224",
        "vit_giant_patch14_dinov2",
        "vit_base_patch16_clip_224",
        "vit_base_patch16_siglip_224",
    ),
    own_names=("vit_cifar",),
)

# --- transformers -----------------------------------------------------------------------------------------------------

SHARED_KEYS = """
    image_size        = image_size
    patch_size        = patch_size
    in_chans          = num_channels
    width             = hidden_size
    depth             = num_hidden_layers
    heads             = num_attention_heads
    act               = hidden_act             activations
    norm_eps          = layer_norm_eps
    qkv_bias          = qkv_bias
    dropout           = hidden_dropout_prob
    attention_dropout = attention_probs_dropout_prob
"""
VIT_KEYS = SHARED_KEYS + "mlp_dim = intermediate_size"
DINO_KEYS = SHARED_KEYS + "layer_scale = layerscale_value \n drop_path = drop_path_rate"

SHARED_TABLE = """
    patches.proj.@              = ~embeddings.patch_embeddings.projection.@
    patches.cls                 = ~embeddings.cls_token            row0 row0
    patches.dist                = ~embeddings.distillation_token   row0 row0
    patches.registers           = ~embeddings.register_tokens      row0
    patches.positions           = ~embeddings.position_embeddings  row0
    blocks.*.mixer.q.@          = ~encoder.layer.*.attention.attention.query.@
    blocks.*.mixer.k.@          = ~encoder.layer.*.attention.attention.key.@
    blocks.*.mixer.v.@          = ~encoder.layer.*.attention.attention.value.@
    blocks.*.mixer.out.@        = ~encoder.layer.*.attention.output.dense.@
    blocks.norm.@               = ~layernorm.@
    head.proj.@                 = cls_classifier.@                 if head.proj_dist.weight
    head.proj.@                 = classifier.@
    head.proj_dist.@            = distillation_classifier.@
    -                           = ~embeddings.mask_token
    -                           = ~pooler.dense.*
"""
VIT_TABLE = (
    SHARED_TABLE
    + """
    blocks.*.norm1.@            = ~encoder.layer.*.layernorm_before.@
    blocks.*.norm2.@            = ~encoder.layer.*.layernorm_after.@
    blocks.*.mlp.up.@           = ~encoder.layer.*.intermediate.dense.@
    blocks.*.mlp.down.@         = ~encoder.layer.*.output.dense.@
"""
)
DINO_TABLE = (
    SHARED_TABLE
    + """
    blocks.*.norm1.@            = ~encoder.layer.*.norm1.@
    blocks.*.scale1.gamma       = ~encoder.layer.*.layer_scale1.lambda1
    blocks.*.norm2.@            = ~encoder.layer.*.norm2.@
    blocks.*.mlp.{gate,up}.@    = ~encoder.layer.*.mlp.weights_in.@
    blocks.*.mlp.down.@         = ~encoder.layer.*.mlp.weights_out.@       if blocks.*.mlp.gate.weight
    blocks.*.mlp.up.@           = ~encoder.layer.*.mlp.fc1.@
    blocks.*.mlp.down.@         = ~encoder.layer.*.mlp.fc2.@
    blocks.*.scale2.gamma       = ~encoder.layer.*.layer_scale2.lambda1
"""
)


def read_dino(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The MLP: its width, for a gated MLP two thirds of the ratio, rounded up to a multiple of 8."""
    inner = int(fields["width"] * theirs.get("mlp_ratio", 4))
    if not theirs.get("use_swiglu_ffn", False):
        return {"mlp_dim": inner, "gated_mlp": False}
    return {"mlp_dim": (int(inner * 2 / 3) + 7) // 8 * 8, "gated_mlp": True, "act": "silu"}


def write_dino(config: Any) -> dict[str, Any]:
    """The inverse of `read_dino`. transformers has integer ratios only; `differences` finds the other widths."""
    if isinstance(config.image_size, tuple) and config.image_size[0] != config.image_size[1]:
        raise ValueError(f"image_size={config.image_size} (its DINOv2 supports square images only)")
    mlp_dim = config.mlp_dim or 4 * config.width
    ratio = round((1.5 if config.gated_mlp else 1) * mlp_dim / config.width)
    return {"mlp_ratio": ratio, "use_swiglu_ffn": config.gated_mlp}


def positions_for_transformers(config: Any) -> Any:
    """An equivalent config with positions for all prefix tokens but the registers, as in transformers."""
    return config.replace(position_prefix=None)


VIT_DEFAULTS = {"norm_eps": 1e-12, "position_antialias": False}  # defaults of transformers
VIT = CheckpointMapping(
    name="vit",
    base="vit.",
    keys=VIT_KEYS,
    table=VIT_TABLE,
    defaults=VIT_DEFAULTS,
    heads={"ViTModel": {"head": None}, "ViTForImageClassification": {"head": "classify"}},
    rewrite=positions_for_transformers,
)
DEIT = CheckpointMapping(
    name="deit",
    base="deit.",
    keys=VIT_KEYS,
    table=VIT_TABLE,
    defaults=VIT_DEFAULTS,
    heads={
        "DeiTModel": {"head": None, "distilled": True},
        "DeiTForImageClassification": {"head": "classify", "distilled": "token"},
        "DeiTForImageClassificationWithTeacher": {"head": "classify", "distilled": True},
    },
    rewrite=positions_for_transformers,
)
DINOV2 = CheckpointMapping(
    name="dinov2",
    base="dinov2.",
    keys=DINO_KEYS,
    table=DINO_TABLE,
    defaults={"layer_scale": 1.0, "patch_size": 14, "position_antialias": False},
    heads={
        "Dinov2Model": {"head": None},
        "Dinov2ForImageClassification": {"head": "classify", "pool": "cls_mean"},
    },
    read=read_dino,
    write=write_dino,
    rewrite=positions_for_transformers,
    writes={"use_mask_token": False},
)
DINOV2_WITH_REGISTERS = CheckpointMapping(
    name="dinov2_with_registers",
    base="dinov2_with_registers.",
    keys=DINO_KEYS + "\n registers = num_register_tokens",
    table=DINO_TABLE,
    defaults={"layer_scale": 1.0, "registers": 4},
    heads={
        "Dinov2WithRegistersModel": {"head": None},
        "Dinov2WithRegistersForImageClassification": {"head": "classify", "pool": "cls_mean"},
    },
    read=read_dino,
    write=write_dino,
    rewrite=positions_for_transformers,
)

MAPPINGS: dict[str, Any] = {"timm": TIMM, "transformers": (VIT, DEIT, DINOV2, DINOV2_WITH_REGISTERS)}
