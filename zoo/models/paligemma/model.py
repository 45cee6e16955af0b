"""PaliGemma (Beyer et al. 2024, https://arxiv.org/abs/2407.07726): the features of a SigLIP image tower, projected by
one layer, take the places of image tokens in a Gemma decoder; image and prompt see each other, the answer is causal.

PaliGemma 2 (https://arxiv.org/abs/2412.03555) has Gemma 2 as its decoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.models.bridge.config import BridgeConfig
from zoo.models.bridge.model import Bridge
from zoo.models.clip_text.model import SO400M
from zoo.models.family import Family
from zoo.models.gemma.model import VARIANTS as GEMMA
from zoo.models.gemma.model import GemmaConfig
from zoo.models.paligemma.mapping import TRANSFORMERS
from zoo.models.paligemma.prefix_mask import PrefixMask, check_sees_ahead, prefix_mask
from zoo.models.tower_config import Part
from zoo.models.vit.clip_mapping import SIGLIP_IMAGE
from zoo.models.vit.model import ViTConfig
from zoo.nn.masks import Mask
from zoo.preprocessing.paligemma import PaliGemmaProcessor


@dataclass(frozen=True, kw_only=True)
class PaliGemmaConfig(BridgeConfig):
    """Config of PaliGemma; see BridgeConfig for its fields."""

    projector: Any = "linear"
    feature_layer: int | tuple[int, ...] = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by != "projector" or self.image is None:
            raise ValueError("PaliGemma reads images by a projector: give image= and by='projector'")


class Prompt(NamedTuple):
    """What a prompt has beside its ids: features of its images [F, D], and its token_type_ids [B, N]."""

    features: Tensor | None
    token_type_ids: Tensor | None


class PaliGemma(Bridge):
    """forward(input_ids [B, N], attention_mask, token_type_ids, pixel_values [I, C, H, W]) -> logits [B, N, V].

    token_type_ids [B, N], as `model.preprocess` makes them: 0 for the prefix (image and prompt), whose tokens see each
    other; 1 for the suffix (the answer), which is causal. Without them all tokens are causal, as in transformers.
    See Bridge.
    """

    processor_class = PaliGemmaProcessor

    def __init__(self, config: PaliGemmaConfig, towers: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, towers)
        check_sees_ahead(self.text.blocks, "those of an image and its prompt")
        self.inputs = tuple(name for name in self.inputs if name != "document_ids")

    def encoder_preprocess(self) -> Any:
        """That of SigLIP, which does not keep the proportions of an image."""
        return replace(super().encoder_preprocess(), fit="squash")

    def encoder_names(self) -> list[str]:
        return [*super().encoder_names(), "token_type_ids"]

    def complete_example(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """See Bridge; the last fourth of each text is the answer."""
        found = super().complete_example(batch)
        ids = found["input_ids"]
        answer = torch.arange(ids.shape[1]) >= ids.shape[1] - batch["input_ids"].shape[1] // 4
        return found | {"token_type_ids": answer.long().repeat(len(ids), 1)}

    def features(self, token_type_ids: Tensor | None = None, **batch: Any) -> Any:  # type: ignore[override]
        """What takes the places of the image tokens [F, D]; with token_type_ids a `Prompt`, for `new_state`."""
        found = super().features(**batch) if batch else None
        return found if token_type_ids is None else Prompt(found, token_type_ids)

    def words_and_mask(
        self, input_ids: Tensor, attention_mask: Tensor | None, features: Any
    ) -> tuple[Tensor | None, Mask | None]:
        """See Bridge. With a `Prompt` the mask is that of its token_type_ids, those of the ids."""
        found, types = features if isinstance(features, Prompt) else (features, None)
        return self.embed_words(input_ids, found), read_prefix(types, input_ids, attention_mask)


def read_prefix(types: Tensor | None, ids: Tensor, attention_mask: Tensor | None) -> PrefixMask | None:
    """The mask for token_type_ids, None without. Raises ValueError for types that do not belong to the ids."""
    if types is None:
        return None
    if types.shape != ids.shape or types.is_floating_point():
        raise ValueError(
            f"token_type_ids are {tuple(types.shape)} of {types.dtype}; expected {tuple(ids.shape)} of integers, 0 for "
            "image and prompt and 1 for the answer, as model.preprocess makes them"
        )
    return prefix_mask(types, attention_mask)


def paligemma(image: dict[str, Any], text: dict[str, Any], token: int = 257152) -> dict[str, Any]:
    """Config values of a variant; token: that of the images."""
    vision = {**SIGLIP_IMAGE, "head": None, "act": "gelu_tanh", "norm_eps": 1e-6, **image}
    return {
        "image": Part(family="vit", config=ViTConfig(**vision)),
        "text": Part(family="gemma", config=GemmaConfig(**text)),
        "image_token_id": token,
    }


def published(text: str, image_size: int) -> dict[str, Any]:
    """Config values of a published variant: So400m with patches of 14 pixels, and a variant of Gemma."""
    return paligemma(
        SO400M | dict(patch_size=14, image_size=image_size), GEMMA[text] | {"vocab_size": 257216, "max_length": 8192}
    )


VARIANTS: dict[str, dict[str, Any]] = {
    "paligemma_nano": paligemma(
        dict(image_size=64, patch_size=16, width=96, depth=3, heads=3), GEMMA["gemma_nano"], token=1
    ),
    "paligemma_3b_224": published("gemma_2b", 224),
    "paligemma_3b_448": published("gemma_2b", 448),
    "paligemma_3b_896": published("gemma_2b", 896),
    "paligemma2_3b_224": published("gemma2_2b", 224),
    "paligemma2_3b_448": published("gemma2_2b", 448),
    "paligemma2_10b_224": published("gemma2_9b", 224),
    "paligemma2_28b_224": published("gemma2_27b", 224),
}

SOURCES = {
    "paligemma_3b_224": "hf-hub:google/paligemma-3b-pt-224",
    "paligemma_3b_448": "hf-hub:google/paligemma-3b-pt-448",
    "paligemma_3b_896": "hf-hub:google/paligemma-3b-pt-896",
    "paligemma2_3b_224": "hf-hub:google/paligemma2-3b-pt-224",
    "paligemma2_3b_448": "hf-hub:google/paligemma2-3b-pt-448",
    "paligemma2_10b_224": "hf-hub:google/paligemma2-10b-pt-224",
    "paligemma2_28b_224": "hf-hub:google/paligemma2-28b-pt-224",
}

FAMILY = Family(
    "paligemma", PaliGemma, PaliGemmaConfig, "multimodal", VARIANTS, SOURCES, {"transformers": TRANSFORMERS}
)
