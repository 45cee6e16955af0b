"""Mapping of the image towers of CLIP and SigLIP to transformers and open_clip: config keys and tensor names."""

from collections.abc import Mapping
from typing import Any

from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.models.vit.mapping import sizes

# --- transformers -----------------------------------------------------------------------------------------------------

BLOCK_KEYS = """
    width             = hidden_size
    depth             = num_hidden_layers
    heads             = num_attention_heads
    mlp_dim           = intermediate_size
    act               = hidden_act             activations
    norm_eps          = layer_norm_eps
    attention_dropout = attention_dropout
"""
VISION_KEYS = BLOCK_KEYS + "image_size = image_size \n patch_size = patch_size \n in_chans = num_channels"

BLOCKS = """
    blocks.*.norm1.@            = ~encoder.layers.*.layer_norm1.@
    blocks.*.mixer.q.@          = ~encoder.layers.*.self_attn.q_proj.@
    blocks.*.mixer.k.@          = ~encoder.layers.*.self_attn.k_proj.@
    blocks.*.mixer.v.@          = ~encoder.layers.*.self_attn.v_proj.@
    blocks.*.mixer.out.@        = ~encoder.layers.*.self_attn.out_proj.@
    blocks.*.norm2.@            = ~encoder.layers.*.layer_norm2.@
    blocks.*.mlp.up.@           = ~encoder.layers.*.mlp.fc1.@
    blocks.*.mlp.down.@         = ~encoder.layers.*.mlp.fc2.@
    -                           = ~embeddings.position_ids
"""
VISION_TABLE = (
    BLOCKS
    + """
    patches.proj.@              = ~embeddings.patch_embedding.@
    patches.cls                 = ~embeddings.class_embedding
    patches.positions           = ~embeddings.position_embedding.weight
    patches.norm.@              = ~pre_layrnorm.@
    blocks.norm.@               = ~post_layernorm.@
    head.probe                  = ~head.probe                   row0 row0
    head.mixer.{q,k,v}.weight   = ~head.attention.in_proj_weight
    head.mixer.{q,k,v}.bias     = ~head.attention.in_proj_bias
    head.mixer.out.@            = ~head.attention.out_proj.@
    head.norm.@                 = ~head.layernorm.@
    head.mlp.up.@               = ~head.mlp.fc1.@
    head.mlp.down.@             = ~head.mlp.fc2.@
"""
)

POOLED = dict(num_classes=0, head="pool")
CLIP_IMAGE = POOLED | dict(pre_norm=True, pool="cls")
SIGLIP_IMAGE = POOLED | dict(class_token=False, pool="map")
SIGLIP_DEFAULTS = dict(act="gelu_tanh", norm_eps=1e-6, mlp_dim=3072)  # defaults of transformers


def read_edges(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """`cut_edges`, which their configs do not have: images that patch_size does not divide are cropped."""
    sides = zip(sizes(fields["image_size"]), sizes(fields["patch_size"]))
    return {"cut_edges": any(side % patch for side, patch in sides)}


def read_heads(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The number of heads, from `head_width`, and the fields of `read_blocks`."""
    return read_blocks(fields, theirs) | {"heads": fields["width"] // theirs.get("head_width", 64)}


CLIP_VISION = CheckpointMapping(
    name="clip_vision_model",
    base="vision_model.",
    heads={"CLIPVisionModel": {"head": "pool"}},
    keys=VISION_KEYS,
    table=VISION_TABLE,
    defaults=CLIP_IMAGE | dict(patch_size=32, mlp_dim=3072, act="quick_gelu", norm_eps=1e-5, position_antialias=False),
    read=read_edges,
)
SIGLIP_VISION = CheckpointMapping(
    name="siglip_vision_model",
    base="vision_model.",
    heads={"SiglipVisionModel": {"head": "pool"}},
    keys=VISION_KEYS,
    table=VISION_TABLE,
    defaults=SIGLIP_IMAGE | SIGLIP_DEFAULTS | dict(position_antialias=False),
    only={"vision_use_head": (True,)},
    read=read_edges,
)

# --- open_clip --------------------------------------------------------------------------------------------------------

RESBLOCKS = """
    blocks.*.norm1.@                = ~transformer.resblocks.*.ln_1.@
    blocks.*.mixer.{q,k,v}.weight   = ~transformer.resblocks.*.attn.in_proj_weight
    blocks.*.mixer.{q,k,v}.bias     = ~transformer.resblocks.*.attn.in_proj_bias
    blocks.*.mixer.out.@            = ~transformer.resblocks.*.attn.out_proj.@
    blocks.*.scale1.gamma           = ~transformer.resblocks.*.ls_1.gamma
    blocks.*.norm2.@                = ~transformer.resblocks.*.ln_2.@
    blocks.*.mlp.up.@               = ~transformer.resblocks.*.mlp.c_fc.@
    blocks.*.mlp.down.@             = ~transformer.resblocks.*.mlp.c_proj.@
    blocks.*.scale2.gamma           = ~transformer.resblocks.*.ls_2.gamma
"""
# Options of theirs that affect the outputs and that our config does not have.
PLAIN: dict[str, tuple[Any, ...]] = {
    "block_type": (None, "default"),
    "qk_norm": (False,),
    "scaled_cosine_attn": (False,),
    "scale_heads": (False,),
    "scale_attn_inner": (False,),
    "scale_attn": (False,),
    "scale_fc": (False,),
    "output_tokens": (False,),
}


def read_blocks(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """MLP width, activation and eps. The caller copies `quick_gelu`, a key of the whole model, into each tower."""
    act = "quick_gelu" if theirs.get("quick_gelu") else "gelu"
    options = theirs.get("act_kwargs") or {}
    if options not in ({}, {"approximate": "tanh"}, {"approximate": "none"}):
        raise ValueError(f"act_kwargs={options!r} is not supported")
    act = "gelu_tanh" if options.get("approximate") == "tanh" and act == "gelu" else act
    norms = dict(theirs.get("norm_kwargs") or {})
    eps = norms.pop("eps", 1e-5)
    if norms:
        raise ValueError(f"norm_kwargs={norms!r} is not supported")
    return {"mlp_dim": int(fields["width"] * theirs.get("mlp_ratio", 4.0)), "act": act, "norm_eps": eps}


def write_blocks(config: Any) -> dict[str, Any]:
    """The inverse of `read_blocks`."""
    mlp_dim = config.mlp_dim or 4 * config.width
    ratio = mlp_dim / config.width
    values: dict[str, Any] = {
        "mlp_ratio": ratio if int(config.width * ratio) == mlp_dim else ratio + 0.5 / config.width
    }
    if config.act == "quick_gelu":
        values["quick_gelu"] = True
    if config.act == "gelu_tanh":
        values["act_kwargs"] = {"approximate": "tanh"}
    if config.norm_eps != 1e-5:
        values["norm_kwargs"] = {"eps": config.norm_eps}
    return values


OPEN_CLIP_VISION = CheckpointMapping(
    name="open_clip's image tower",
    keys="""
        image_size  = image_size
        patch_size  = patch_size
        width       = width
        depth       = layers
        layer_scale = ls_init_value
    """,
    table=RESBLOCKS
    + """
        patches.proj.@      = ~conv1.@
        patches.cls         = ~class_embedding
        patches.positions   = ~positional_embedding
        patches.norm.@      = ~ln_pre.@
        blocks.norm.@       = ~ln_post.@
    """,
    defaults=CLIP_IMAGE | dict(norm_eps=1e-5),
    only=PLAIN
    | {
        "attentional_pool": (False,),
        "no_ln_pre": (False,),
        "pos_embed_type": ("learnable",),
        "pool_type": ("tok",),
        "timm_model_name": (None,),
    },
    others=(
        "quick_gelu", "head_width", "mlp_ratio", "act_kwargs", "norm_kwargs", "patch_dropout", "attn_pooler_queries",
        "attn_pooler_heads", "final_ln_after_pool", "timm_model_pretrained", "timm_pool", "timm_proj",
        "timm_proj_bias", "timm_drop", "timm_drop_path",
    ),
    read=read_heads,
    write=lambda config: write_blocks(config) | {"head_width": config.width // config.heads},
)  # fmt: skip
