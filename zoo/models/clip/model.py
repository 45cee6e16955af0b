"""CLIP (Radford et al. 2021): a ViT and a causal text tower, each projected into a shared embedding space."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zoo.models.clip.mapping import TRANSFORMERS
from zoo.models.clip_text.model import GIGANTIC, HUGE, LARGE, ClipTextConfig
from zoo.models.contrast.model import Contrastive
from zoo.models.family import Family
from zoo.models.tower_config import ContrastiveConfig, Tower
from zoo.models.vit.clip_mapping import CLIP_IMAGE
from zoo.models.vit.model import ViTConfig
from zoo.preprocessing.image_settings import clip_colors
from zoo.preprocessing.multimodal import MultimodalProcessor


class CLIP(Contrastive):
    """CLIP; see Contrastive."""

    def default_preprocess(self) -> MultimodalProcessor:
        image: Any = self.tower("image").default_preprocess()
        return MultimodalProcessor(image=replace(image, **clip_colors(image.channels)))


def clip(width: int, image: Mapping[str, Any], text: Mapping[str, Any], act: str = "quick_gelu") -> dict[str, Any]:
    """Config values of a variant."""
    common: dict[str, Any] = {"act": act}
    image_config = ViTConfig(**{**CLIP_IMAGE, "norm_eps": 1e-5, **common, **image})
    return {
        "image": Tower(family="vit", config=image_config),
        "text": Tower(family="clip_text", config=ClipTextConfig(**{**common, **text})),
        "width": width,
    }


VIT_L = dict(patch_size=14, width=1024, depth=24, heads=16)
VIT_H = dict(patch_size=14, width=1280, depth=32, heads=16)
VIT_G = dict(patch_size=14, width=1408, depth=40, heads=16, mlp_dim=6144)
VIT_BIG_G = dict(patch_size=14, width=1664, depth=48, heads=16, mlp_dim=8192)
TINY_IMAGE = dict(image_size=64, patch_size=8, width=192, depth=6, heads=3)
TINY_TEXT = dict(vocab_size=2048, max_length=32, width=128, depth=4, heads=4, pool="eos", eos_token_id=1)

VARIANTS: dict[str, dict[str, Any]] = {
    "clip_tiny": clip(128, TINY_IMAGE, TINY_TEXT, "gelu"),
    "clip_vit_base_patch32": clip(512, dict(patch_size=32), {}),
    "clip_vit_base_patch16": clip(512, {}, {}),
    "clip_vit_large_patch14": clip(768, VIT_L, LARGE),
    "clip_vit_large_patch14_336": clip(768, VIT_L | dict(image_size=336), LARGE),
    "clip_vit_huge_patch14": clip(1024, VIT_H, HUGE, "gelu"),
    "clip_vit_giant_patch14": clip(1024, VIT_G, HUGE, "gelu"),
    "clip_vit_gigantic_patch14": clip(1280, VIT_BIG_G, GIGANTIC, "gelu"),
}

SOURCES = {
    "clip_vit_base_patch32": "hf-hub:openai/clip-vit-base-patch32",
    "clip_vit_base_patch16": "hf-hub:openai/clip-vit-base-patch16",
    "clip_vit_large_patch14": "hf-hub:openai/clip-vit-large-patch14",
    "clip_vit_large_patch14_336": "hf-hub:openai/clip-vit-large-patch14-336",
}

FAMILY = Family(
    "clip", CLIP, ContrastiveConfig, "multimodal", VARIANTS, SOURCES, {"transformers": TRANSFORMERS, "open_clip": True}
)
