"""LLaVA 1.5 (Liu et al. 2023, https://arxiv.org/abs/2310.03744): the features of a CLIP image tower, projected by two
layers, take the places of image tokens in a LLaMA decoder."""

from dataclasses import replace
from typing import Any

from zoo.models.bridge.config import BridgeConfig
from zoo.models.bridge.model import Bridge
from zoo.models.clip.model import VIT_L
from zoo.models.family import Family
from zoo.models.llama.model import VARIANTS as LLAMA
from zoo.models.llama.model import LlamaConfig
from zoo.models.llava.mapping import TRANSFORMERS
from zoo.models.tower_config import Part
from zoo.models.vit.clip_mapping import CLIP_IMAGE
from zoo.models.vit.model import ViTConfig
from zoo.preprocessing.image import ImageProcessor
from zoo.preprocessing.image_settings import clip_colors


class Llava(Bridge):
    """LLaVA; see Bridge."""

    def encoder_preprocess(self) -> Any:
        """That of the published towers: a CLIP tower has a class token, a SigLIP tower none."""
        found = super().encoder_preprocess()
        if not isinstance(found, ImageProcessor):
            return found
        colors: Any = clip_colors(found.channels)
        return replace(found, **colors) if self.config.image.config.class_token else replace(found, fit="squash")


def llava(image: dict[str, Any], text: dict[str, Any], **own: Any) -> dict[str, Any]:
    """Config values of a variant."""
    vision = {**CLIP_IMAGE, "head": None, "act": "quick_gelu", "norm_eps": 1e-5, "position_antialias": False, **image}
    return {
        "image": Part(family="vit", config=ViTConfig(**vision)),
        "text": Part(family="llama", config=LlamaConfig(**text)),
        "image_token_id": 32000,
        **own,
    }


CLIP_336 = VIT_L | dict(image_size=336)
VICUNA = dict(vocab_size=32064, pad_token_id=32001)

VARIANTS: dict[str, dict[str, Any]] = {
    "llava_nano": llava(
        dict(image_size=64, patch_size=16, width=96, depth=3, heads=3),
        LLAMA["llama_nano"],
        image_token_id=1,
    ),
    "llava15_7b": llava(CLIP_336, LLAMA["llama2_7b"] | VICUNA),
    "llava15_13b": llava(CLIP_336, LLAMA["llama2_13b"] | VICUNA),
}

SOURCES = {
    "llava15_7b": "hf-hub:llava-hf/llava-1.5-7b-hf",
    "llava15_13b": "hf-hub:llava-hf/llava-1.5-13b-hf",
}

FAMILY = Family("llava", Llava, BridgeConfig, "multimodal", VARIANTS, SOURCES, {"transformers": TRANSFORMERS})
