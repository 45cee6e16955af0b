"""SigLIP (Zhai et al. 2023): a ViT with attention pooling, a bidirectional text tower, and a sigmoid loss."""

from collections.abc import Mapping
from typing import Any

from zoo.models.clip_text.model import SIGLIP, SO400M, ClipTextConfig
from zoo.models.contrast.model import Contrastive
from zoo.models.family import Family
from zoo.models.siglip.mapping import TRANSFORMERS
from zoo.models.tower_config import ContrastiveConfig, Tower
from zoo.models.vit.clip_mapping import SIGLIP_IMAGE
from zoo.models.vit.model import ViTConfig


class SigLIP(Contrastive):
    """SigLIP; see Contrastive. Texts are padded to a fixed length, and there is no attention mask."""


def siglip(image: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    """Config values of a variant: only text features are projected into the shared space."""
    image_config = ViTConfig(**{**SIGLIP_IMAGE, "act": "gelu_tanh", "norm_eps": 1e-6, **image})
    text_config = ClipTextConfig(**{**SIGLIP, **text})
    return {
        "image": Tower(family="vit", config=image_config, proj=None),
        "text": Tower(family="clip_text", config=text_config, proj="affine"),
        "width": image_config.width,
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

FAMILY = Family(
    "siglip",
    SigLIP,
    ContrastiveConfig,
    "multimodal",
    VARIANTS,
    SOURCES,
    {"transformers": TRANSFORMERS, "open_clip": True},
)
