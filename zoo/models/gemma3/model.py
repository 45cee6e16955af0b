"""Gemma 3 with images (Gemma Team 2025, https://arxiv.org/abs/2503.19786): the features of a SigLIP image tower, pooled
to 256 tokens and projected, take the places of image tokens in a Gemma 3 decoder; the tokens of an image see each
other."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.bridge.config import BridgeConfig
from zoo.models.bridge.model import Bridge
from zoo.models.clip_text.model import SO400M
from zoo.models.family import Family
from zoo.models.gemma.model import VARIANTS as GEMMA
from zoo.models.gemma.model import GemmaConfig
from zoo.models.gemma3.image_mask import ImageMask, image_mask
from zoo.models.gemma3.mapping import TRANSFORMERS
from zoo.models.paligemma.model import Prompt
from zoo.models.paligemma.prefix_mask import check_sees_ahead
from zoo.models.tower_config import Part
from zoo.models.vit.clip_mapping import SIGLIP_IMAGE
from zoo.models.vit.model import ViTConfig
from zoo.nn.kv_cache import StackState
from zoo.nn.rms_norm import UnitOffsetRMSNorm
from zoo.preprocessing.gemma3 import Gemma3Processor
from zoo.preprocessing.image import pair


@dataclass(frozen=True, kw_only=True)
class Gemma3Config(BridgeConfig):
    """Config of Gemma 3 with images; see BridgeConfig.

    mm_tokens_per_image: the number of tokens of an image, a square number: its features are averaged over squares.
    boi_token_id, eoi_token_id: the tokens before and after those of an image.
    """

    projector: Any = "linear"
    projector_norm: Any = "rms"
    projector_bias: bool = False
    feature_layer: int | tuple[int, ...] = -1
    mm_tokens_per_image: int = 256
    boi_token_id: int = 255999
    eoi_token_id: int = 256000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by != "projector" or self.image is None:
            raise ValueError("Gemma 3 reads images by a projector: give image= and by='projector'")
        if (self.projector, self.projector_norm, self.projector_bias) != ("linear", "rms", False):
            raise ValueError("Gemma 3 has projector='linear', projector_norm='rms' and projector_bias=False: omit them")
        side = round(self.mm_tokens_per_image**0.5)
        if side < 1 or side**2 != self.mm_tokens_per_image or any(edge % side for edge in self.grid):
            raise ValueError(
                f"mm_tokens_per_image={self.mm_tokens_per_image}: expected a square number whose root divides "
                f"{self.grid[0]} and {self.grid[1]}, the patches of the sides of an image"
            )
        size = self.text.config.vocab_size  # type: ignore[union-attr]
        for name in ("boi_token_id", "eoi_token_id"):
            if not 0 <= getattr(self, name) < size:
                raise ValueError(f"{name}={getattr(self, name)}: expected a token, 0 to {size - 1}")

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patches of an image."""
        c: Any = self.encoder_part.config
        (height, width), (high, wide) = pair(c.image_size), pair(c.patch_size)
        return height // high, width // wide

    @property
    def tokens_per_item(self) -> int:
        """The number of tokens of an image."""
        return self.mm_tokens_per_image

    def own_foreign_names(self) -> dict[str, Any]:
        return super().own_foreign_names() | {"boi_token_index": "boi_token_id", "eoi_token_index": "eoi_token_id"}


class PooledProjector(nn.Module):
    """[I, rows * columns, W] -> [I, tokens, D]: means over rectangles of the grid, a norm and a linear layer."""

    def __init__(self, grid: tuple[int, int], tokens: int, width: int, out: int, eps: float) -> None:
        super().__init__()
        side = round(tokens**0.5)
        self.grid, self.kernel = grid, (grid[0] // side, grid[1] // side)
        self.norm = UnitOffsetRMSNorm(width, eps=eps)
        self.up = nn.Linear(width, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        plane = F.avg_pool2d(x.transpose(1, 2).unflatten(2, self.grid), self.kernel)
        projected: Tensor = self.up(self.norm(plane.flatten(2).transpose(1, 2)))
        return projected


class Gemma3(Bridge):
    """forward(input_ids [B, N], attention_mask, token_type_ids, pixel_values [I, C, H, W]) -> logits [B, N, V].

    The tokens of one image, a run of image tokens, see each other; all others see those before them. token_type_ids
    [B, N]: 1 at the tokens of images, as transformers' processor makes them; by default, those of the ids. See Bridge.
    """

    processor_class = Gemma3Processor
    images_at_start = True

    def __init__(self, config: Gemma3Config, towers: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, towers)
        check_sees_ahead(self.text.blocks, "those of an image")
        self.inputs = tuple(name for name in self.inputs if name != "document_ids")

    def make_connector(self) -> nn.Module:
        c, image = self.config, self.config.image.config
        return PooledProjector(
            c.grid, c.mm_tokens_per_image, image.width * len(c.feature_layers), self.text.config.width, image.norm_eps
        )

    def encoder_preprocess(self) -> Any:
        """That of the published models, which does not keep the proportions of an image."""
        return replace(super().encoder_preprocess(), fit="squash", interpolation="bilinear")

    def encoder_names(self) -> list[str]:
        return [*super().encoder_names(), "token_type_ids"]

    def complete_example(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        found = super().complete_example(batch)
        return found | {"token_type_ids": (found["input_ids"] == self.config.image_token_id).long()}

    def features(self, token_type_ids: Tensor | None = None, **batch: Any) -> Any:  # type: ignore[override]
        """What takes the places of the image tokens [F, D]; with token_type_ids a `Prompt`, for `new_state`."""
        found = super().features(**batch) if batch else None
        return found if token_type_ids is None else Prompt(found, token_type_ids)

    def words_and_mask(
        self, input_ids: Tensor, attention_mask: Tensor | None, features: Any
    ) -> tuple[Tensor | None, ImageMask | None]:
        """See Bridge."""
        found, types = features if isinstance(features, Prompt) else (features, None)
        words = self.embed_words(input_ids, found)
        if types is None:
            where = None if found is None else input_ids == self.config.image_token_id
        elif types.shape != input_ids.shape or types.is_floating_point():
            raise ValueError(
                f"token_type_ids are {tuple(types.shape)} of {types.dtype}; expected {tuple(input_ids.shape)} of "
                "integers, 1 at the tokens of images"
            )
        else:
            where = types == 1
        return words, None if where is None else image_mask(where, attention_mask)

    def decode(
        self, input_ids: Tensor, state: StackState, attention_mask: Tensor | None = None, *, every: bool = False
    ) -> Tensor:
        if state.length and state.features is not None:
            raise ValueError("Gemma 3 reads its images with the first tokens of a text: put all of them there")
        return super().decode(input_ids, state, attention_mask, every=every)


def gemma3(image: dict[str, Any], text: dict[str, Any], **own: Any) -> dict[str, Any]:
    """Config values of a variant."""
    vision = {**SIGLIP_IMAGE, "head": None, "act": "gelu_tanh", "norm_eps": 1e-6, **image}
    return {
        "image": Part(family="vit", config=ViTConfig(**vision)),
        "text": Part(family="gemma", config=GemmaConfig(**text)),
        "image_token_id": 262144,
        **own,
    }


SIGLIP_896 = SO400M | dict(patch_size=14, image_size=896)
VARIANTS: dict[str, dict[str, Any]] = {
    "gemma3_vision_nano": gemma3(
        dict(image_size=64, patch_size=16, width=96, depth=2, heads=3),
        GEMMA["gemma_nano"],
        image_token_id=1,
        boi_token_id=2,
        eoi_token_id=3,
        mm_tokens_per_image=4,
    ),
    "gemma3_vision_4b": gemma3(SIGLIP_896, GEMMA["gemma3_4b"]),
    "gemma3_vision_12b": gemma3(SIGLIP_896, GEMMA["gemma3_12b"]),
    "gemma3_vision_27b": gemma3(SIGLIP_896, GEMMA["gemma3_27b"]),
}

SOURCES = {f"gemma3_vision_{size}": f"hf-hub:google/gemma-3-{size}-pt" for size in ("4b", "12b", "27b")}

FAMILY = Family("gemma3", Gemma3, Gemma3Config, "multimodal", VARIANTS, SOURCES, {"transformers": TRANSFORMERS})
