"""Idefics (Laurençon et al. 2023): an open Flamingo (Alayrac et al. 2022), of LLaMA and the image tower of a CLIP.

A perceiver resampler makes a fixed number of tokens of the features of an image, and gated cross-attention blocks
between those of the text tower read them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from zoo.models.bridge.config import BridgeConfig
from zoo.models.bridge.model import Bridge
from zoo.models.family import Family
from zoo.models.idefics.mapping import TRANSFORMERS
from zoo.models.llama.model import LlamaConfig
from zoo.models.tower_config import Part
from zoo.models.vit.clip_mapping import CLIP_IMAGE
from zoo.models.vit.model import ViTConfig
from zoo.preprocessing.image import ImageProcessor
from zoo.preprocessing.image_settings import clip_colors


@dataclass(frozen=True, kw_only=True)
class IdeficsConfig(BridgeConfig):
    """Config of Idefics; see BridgeConfig.

    additional_vocab_size: how many of the last tokens of the vocabulary are not those of LLaMA, such as the tokens
    before and after an image; a folder of transformers has tensors of their own for them.
    """

    by: Literal["projector", "resampler", "cross"] = "cross"
    drop_prefix: bool = False
    resampler_act: str = "relu"
    additional_vocab_size: int = 0

    def __post_init__(self) -> None:
        if self.by != "cross":
            raise ValueError(f"by={self.by!r}: Idefics has by='cross'; the family 'bridge' has others")
        super().__post_init__()
        size = self.text.config.vocab_size  # type: ignore[union-attr]
        if not 0 <= self.additional_vocab_size < size:
            raise ValueError(
                f"additional_vocab_size={self.additional_vocab_size}: expected 0 to {size - 1}, a part of the "
                "vocabulary of the text tower"
            )

    def check_resampler(self, by: str) -> None:
        """Nothing: the files of a model without a resampler have the fields of one, too."""


class Idefics(Bridge):
    """forward(input_ids [B, N], attention_mask, pixel_values, image_attention_mask) -> logits of the next token
    [B, N, V].

    pixel_values: [B, I, C, H, W] with image_attention_mask [B, N, I], 1 where a token sees an image, as transformers'
    processor makes them; or [K, C, H, W] of all images in the order of their tokens, see Bridge.
    """

    def encoder_preprocess(self) -> Any:
        """With the colors of CLIP; the proportions of an image are not kept."""
        found = super().encoder_preprocess()
        if not isinstance(found, ImageProcessor):
            return found
        colors: Any = clip_colors(found.channels)
        return replace(found, fit="squash", **colors)


def idefics(text: Mapping[str, Any], image: Mapping[str, Any], **own: Any) -> dict[str, Any]:
    """Config values of a variant."""
    vision = ViTConfig(**{**CLIP_IMAGE, "head": None, "norm_eps": 1e-5, "position_antialias": False, **image})
    config = LlamaConfig(**text)
    first = config.vocab_size - own["additional_vocab_size"]
    return {
        "image": Part(family="vit", config=vision),
        "text": Part(family="llama", config=config),
        "image_token_id": first + 1,  # behind the one around an image
        "feature_layer": vision.depth - 1,
        **own,
    }


VIT_H = dict(patch_size=14, width=1280, depth=32, heads=16, mlp_dim=5120)
TEXT = dict(vocab_size=32002, max_length=2048, norm_eps=1e-6, bos_token_id=1, eos_token_id=2, pad_token_id=0)
CROSS: dict[str, Any] = dict(
    additional_vocab_size=2, cross_interval=4, cross_qk_norm=True, resampler_tokens=64, resampler_depth=6,
    resampler_heads=16, resampler_head_dim=96, resampler_qk_norm=True,
)  # fmt: skip
NANO_TEXT = TEXT | dict(vocab_size=258, max_length=256, width=192, depth=6, heads=6, mlp_dim=512)
NANO_IMAGE = dict(image_size=32, patch_size=8, width=96, depth=2, heads=3, mlp_dim=384)
NANO = CROSS | dict(cross_interval=2, resampler_tokens=8, resampler_depth=2, resampler_heads=3, resampler_head_dim=32)

VARIANTS: dict[str, dict[str, Any]] = {
    "idefics_9b": idefics(TEXT, VIT_H, **CROSS),
    "idefics_80b": idefics(TEXT | dict(width=8192, depth=80, heads=64, mlp_dim=22016, norm_eps=1e-5), VIT_H, **CROSS),
    "idefics_nano": idefics(NANO_TEXT, NANO_IMAGE, **NANO),
}

SOURCES = {"idefics_9b": "hf-hub:HuggingFaceM4/idefics-9b", "idefics_80b": "hf-hub:HuggingFaceM4/idefics-80b"}

FAMILY = Family("idefics", Idefics, IdeficsConfig, "multimodal", VARIANTS, SOURCES, {"transformers": TRANSFORMERS})
