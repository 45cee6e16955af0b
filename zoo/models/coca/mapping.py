"""Mapping of CoCa to open_clip: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.models.config import Config
from zoo.models.mapping.nested_keys import NestedMapping
from zoo.models.vit.clip_mapping import PLAIN
from zoo.utils.errors import LoadError

KEYS = """
    projection_dim  = embed_dim
    image_size      = vision_cfg.image_size
    patch_size      = vision_cfg.patch_size
    width           = vision_cfg.width
    depth           = vision_cfg.layers
    max_length      = text_cfg.context_length
    vocab_size      = text_cfg.vocab_size
    pad_token_id    = text_cfg.pad_id
    decoder_width   = text_cfg.width
    decoder_heads   = text_cfg.heads
    text_depth      = text_cfg.layers
    decoder_depth   = multimodal_cfg.layers
"""

BLOCK = """
    {ours}.*.norm1.@                = {theirs}.*.ln_1.@
    {ours}.*.mixer.{{q,k,v}}.weight = {theirs}.*.attn.in_proj_weight
    {ours}.*.mixer.{{q,k,v}}.bias   = {theirs}.*.attn.in_proj_bias
    {ours}.*.mixer.out.@            = {theirs}.*.attn.out_proj.@
    {ours}.*.norm2.@                = {theirs}.*.ln_2.@
    {ours}.*.mlp.up.@               = {theirs}.*.mlp.c_fc.@
    {ours}.*.mlp.down.@             = {theirs}.*.mlp.c_proj.@
"""

TABLE = (
    """
    encoder.tokens.proj.@           = visual.conv1.@
    encoder.tokens.cls              = visual.class_embedding
    encoder.tokens.positions        = visual.positional_embedding
    encoder.tokens.norm.@           = visual.ln_pre.@
    pooler.queries                  = visual.attn_pool.query
    pooler.norm.@                   = visual.attn_pool.ln_q.@
    pooler.memory_norm.@            = visual.attn_pool.ln_k.@
    pooler.attention.{q,k,v}.bias   = visual.attn_pool.attn.in_proj_bias
    pooler.attention.out.@          = visual.attn_pool.attn.out_proj.@
    image_norm.@                    = visual.ln_post.@
    image_proj.weight               = visual.proj                           T
    decoder.tokens.word.weight      = text.token_embedding.weight
    decoder.tokens.positions        = text.positional_embedding
    text.cls                        = text.cls_emb
    text.norm.@                     = text.ln_final.@
    text.proj.weight                = text.text_projection                  T
    decoder.blocks.*.cross_norm.@   = text_decoder.cross_attn.*.ln_1.@
    decoder.blocks.*.memory_norm.@  = text_decoder.cross_attn.*.ln_1_kv.@
    decoder.blocks.*.cross.{q,k,v}.weight = text_decoder.cross_attn.*.attn.in_proj_weight
    decoder.blocks.*.cross.{q,k,v}.bias = text_decoder.cross_attn.*.attn.in_proj_bias
    decoder.blocks.*.cross.out.@    = text_decoder.cross_attn.*.attn.out_proj.@
    decoder.blocks.*.norm3.@        = text_decoder.cross_attn.*.ln_2.@
    decoder.blocks.*.cross_mlp.up.@ = text_decoder.cross_attn.*.mlp.c_fc.@
    decoder.blocks.*.cross_mlp.down.@ = text_decoder.cross_attn.*.mlp.c_proj.@
    decoder.blocks.norm.@           = text_decoder.ln_final.@
    head.proj.weight                = text_decoder.text_projection          T
    logit_scale                     = logit_scale
    -                               = text.attn_mask
    -                               = text_decoder.attn_mask
"""
    + BLOCK.format(ours="encoder.blocks", theirs="visual.transformer.resblocks")
    + BLOCK.format(ours="text.blocks", theirs="text.transformer.resblocks")
    + BLOCK.format(ours="decoder.blocks", theirs="text_decoder.resblocks")
)

# Their attention stores q, k and v as one tensor where the tokens are as wide as the queries.
JOINED = "pooler.attention.{q,k,v}.weight = visual.attn_pool.attn.in_proj_weight\n"
APART = "".join(f"pooler.attention.{x}.weight = visual.attn_pool.attn.{x}_proj_weight\n" for x in "qkv")

ONLY: dict[str, tuple[Any, ...]] = {
    **{f"{part}.{key}": allowed for part in ("vision_cfg", "text_cfg") for key, allowed in PLAIN.items()},
    "vision_cfg.output_tokens": (True,),
    "text_cfg.output_tokens": (True,),
    "custom_text": (True,),
    "init_logit_bias": (None,),
    "nonscalar_logit_scale": (False,),
    "vision_cfg.attentional_pool": (True, False),
    "vision_cfg.no_ln_pre": (False,),
    "vision_cfg.pos_embed_type": ("learnable",),
    "vision_cfg.pool_type": ("tok",),
    "vision_cfg.timm_model_name": (None,),
    "text_cfg.embed_cls": (True,),
    "text_cfg.hf_model_name": (None,),
    "text_cfg.no_causal_mask": (False,),
    "text_cfg.proj_type": ("linear",),
    "text_cfg.proj_bias": (False,),
    "text_cfg.mlp_ratio": (4, 4.0),
    **{f"{part}.ls_init_value": (None,) for part in ("vision_cfg", "text_cfg", "multimodal_cfg")},
    **{f"{part}.{key}": (None,) for part in ("vision_cfg", "text_cfg") for key in ("act_kwargs", "norm_kwargs")},
}
# Keys that `read` uses, and those that open_clip's CoCa does not.
OTHERS = (
    "quick_gelu", "init_logit_scale", "vision_cfg.head_width", "vision_cfg.mlp_ratio", "vision_cfg.patch_dropout",
    "vision_cfg.attn_pooler_queries", "vision_cfg.attn_pooler_heads", "vision_cfg.final_ln_after_pool",
    "text_cfg.pool_type", "text_cfg.eos_id", "text_cfg.hf_tokenizer_name", "text_cfg.tokenizer_mode",
    "text_cfg.tokenizer_kwargs.clean", "text_cfg.tokenizer_kwargs", "text_cfg.final_ln_after_pool",
    "multimodal_cfg.width", "multimodal_cfg.heads", "multimodal_cfg.context_length", "multimodal_cfg.vocab_size",
    "multimodal_cfg.mlp_ratio", "multimodal_cfg.dim_head", "multimodal_cfg.n_queries",
    "multimodal_cfg.attn_pooler_heads",
)  # fmt: skip


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Heads, MLPs, activation and pooling, which their config has in other units."""
    for name, own in (("width", "decoder_width"), ("heads", "decoder_heads"), ("context_length", "max_length")):
        value = theirs.get(f"multimodal_cfg.{name}", {"width": 512, "heads": 8, "context_length": 77}[name])
        if value != fields[own] and not (name == "context_length" and value > fields[own]):
            raise LoadError(
                f"open_clip's CoCa: multimodal_cfg.{name}={value!r} and text_cfg.{name}={fields[own]!r} differ"
            )
    width, pools = fields["width"], theirs.get("vision_cfg.attentional_pool", False)
    memory = fields["projection_dim"] if pools else width
    if memory != fields["decoder_width"]:
        raise LoadError(
            f"open_clip's CoCa: the decoder has width {fields['decoder_width']}, and the tokens of the image {memory}"
        )
    return {
        "heads": width // theirs.get("vision_cfg.head_width", 64),
        "mlp_dim": int(width * theirs.get("vision_cfg.mlp_ratio", 4.0)),
        "decoder_mlp_dim": 4 * fields["decoder_width"],
        "act": "quick_gelu" if theirs.get("quick_gelu") else "gelu",
        "pooler_queries": theirs.get("vision_cfg.attn_pooler_queries", 256) if pools else None,
        "pooler_heads": theirs.get("vision_cfg.attn_pooler_heads", 8),
    } | token_ids(fields["vocab_size"], fields["pad_token_id"])


def token_ids(vocab_size: int, pad: int) -> dict[str, Any]:
    """The tokens of CLIP's vocabulary around a caption, which also ends with padding; none for a smaller vocabulary."""
    if vocab_size < 49408:
        return {"bos_token_id": None, "decoder_start_token_id": None, "eos_token_id": None}
    return {"bos_token_id": 49406, "decoder_start_token_id": 49406, "eos_token_id": (49407, pad)}


def write(config: Any) -> dict[str, Any]:
    """The inverse of `read`."""
    width, mlp_dim = config.width, config.mlp_dim or 4 * config.width
    ratio = mlp_dim / width
    values: dict[str, Any] = {
        "custom_text": True,
        "vision_cfg.head_width": width // config.heads,
        "vision_cfg.mlp_ratio": ratio if int(width * ratio) == mlp_dim else ratio + 0.5 / width,
        "vision_cfg.attentional_pool": config.pooler_queries is not None,
        "vision_cfg.attn_pooler_heads": config.pooler_heads,
        "vision_cfg.output_tokens": True,
        "text_cfg.embed_cls": True,
        "text_cfg.output_tokens": True,
        "multimodal_cfg.context_length": config.max_length,
        "multimodal_cfg.vocab_size": config.vocab_size,
        "multimodal_cfg.width": config.decoder_width or width,
        "multimodal_cfg.heads": config.decoder_heads or config.heads,
        "multimodal_cfg.attn_pooler_heads": config.pooler_heads,
    }
    values |= {} if config.pooler_queries is None else {"vision_cfg.attn_pooler_queries": config.pooler_queries}
    return values | ({"quick_gelu": True} if config.act == "quick_gelu" else {})


@dataclass(frozen=True, kw_only=True)
class CoCaMapping(NestedMapping):
    def table_for(self, config: Config) -> str:
        fields: Any = config
        return self.table + (JOINED if fields.width == fields.projection_dim else APART)


OPEN_CLIP = CoCaMapping(
    name="open_clip's CoCa",
    keys=KEYS,
    table=TABLE,
    heads={"CoCa": {"head": "lm"}},
    defaults={
        "image_size": 224, "patch_size": 16, "width": 768, "depth": 12, "max_length": 77, "vocab_size": 49408,
        "decoder_width": 512, "decoder_heads": 8, "text_depth": 12, "decoder_depth": 12, "pad_token_id": 0,
    },
    only=ONLY,
    others=OTHERS,
    read=read,
    write=write,
)  # fmt: skip
