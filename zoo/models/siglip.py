"""SigLIP (Zhai et al. 2023): a ViT that pools by attention, a text tower that sees both sides, a sigmoid per pair."""

from collections.abc import Mapping
from typing import Any

from ..formats.towers import Part, Towers
from .base import Family
from .clip_dialects import SIGLIP_IMAGE, SIGLIP_TEXT, SIGLIP_VISION
from .clip_text import SIGLIP, SO400M, ClipTextConfig
from .contrast import Contrastive, ContrastiveConfig, Tower
from .vit import ViTConfig


class SigLIP(Contrastive):
    """See Contrastive. Texts have a fixed length; what they are filled up with is content, and there is no mask."""


def siglip(image: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides of a variant: the picture's features enter the common space as they are, the text's by a linear map."""
    picture = ViTConfig(**{**SIGLIP_IMAGE, "act": "gelu_tanh", "eps": 1e-6, **image})
    words = ClipTextConfig(**{**SIGLIP, **text})
    return {
        "image": Tower(family="vit", config=picture, proj=None),
        "text": Tower(family="clip_text", config=words, proj="affine"),
        "width": picture.width,
        "loss": "siglip",
    }


LARGE = dict(width=1024, depth=24, heads=16)
TINY_IMAGE = dict(image_size=64, patch_size=8, width=192, depth=6, heads=3)
TINY_TEXT = dict(vocab_size=2048, max_length=32, width=128, depth=4, heads=4)

VARIANTS: dict[str, dict[str, Any]] = {
    "siglip_tiny": siglip(TINY_IMAGE, TINY_TEXT),
    "siglip_base_patch16_224": siglip({}, {}),
    "siglip_base_patch16_256": siglip(dict(image_size=256), {}),
    "siglip_base_patch16_384": siglip(dict(image_size=384), {}),
    "siglip_base_patch16_512": siglip(dict(image_size=512), {}),
    "siglip_large_patch16_256": siglip(LARGE | dict(image_size=256), LARGE),
    "siglip_large_patch16_384": siglip(LARGE | dict(image_size=384), LARGE),
    "siglip_so400m_patch14_224": siglip(SO400M | dict(patch_size=14), SO400M | dict(max_length=16)),
    "siglip_so400m_patch14_384": siglip(SO400M | dict(patch_size=14, image_size=384, cut_edges=True), SO400M),
}

SOURCES = {
    "siglip_base_patch16_224": "hf-hub:google/siglip-base-patch16-224",
    "siglip_base_patch16_256": "hf-hub:google/siglip-base-patch16-256",
    "siglip_base_patch16_384": "hf-hub:google/siglip-base-patch16-384",
    "siglip_base_patch16_512": "hf-hub:google/siglip-base-patch16-512",
    "siglip_large_patch16_256": "hf-hub:google/siglip-large-patch16-256",
    "siglip_large_patch16_384": "hf-hub:google/siglip-large-patch16-384",
    "siglip_so400m_patch14_224": "hf-hub:google/siglip-so400m-patch14-224",
    "siglip_so400m_patch14_384": "hf-hub:google/siglip-so400m-patch14-384",
}


def width_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """SigLIP's common space is as wide as its text tower, unless that says otherwise."""
    text = values.get("text_config") or {}
    return {"width": text.get("projection_size") or text.get("hidden_size", 768)}


TRANSFORMERS = Towers(
    name="siglip",
    architecture="SiglipModel",
    parts={
        "image": Part(key="vision_config", prefix="vision_model.", family="vit", dialect=SIGLIP_VISION),
        "text": Part(key="text_config", prefix="text_model.", family="clip_text", dialect=SIGLIP_TEXT, proj="affine"),
    },
    table="""
        logit_scale     = logit_scale           row0
        logit_bias      = logit_bias            row0
        text_proj.@     = text_model.head.@
    """,
    loss="siglip",
    processor="SiglipProcessor",
    read=width_of,
    write=lambda config: {"text_config": {"projection_size": config.width}},
)

FAMILY = Family(
    "siglip",
    SigLIP,
    ContrastiveConfig,
    "multimodal",
    VARIANTS,
    SOURCES,
    {"transformers": TRANSFORMERS, "open_clip": True},
)
