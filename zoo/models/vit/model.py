"""Vision Transformers: ViT (Dosovitskiy et al. 2021), DeiT and DeiT-3 (Touvron et al. 2021, 2022), DINOv2 (Oquab et al.
2023) with and without registers (Darcet et al. 2024), and the image towers of CLIP (Radford et al. 2021) and SigLIP
(Zhai et al. 2023). Patch embedding, a pre-norm encoder, pooling."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from zoo.models.base import Model
from zoo.models.config import Config, ProblemType
from zoo.models.family import Family
from zoo.models.timm_names import TimmFeatures
from zoo.models.tracing import trace_forward
from zoo.models.vit.clip_mapping import CLIP_VISION, SIGLIP_VISION
from zoo.models.vit.mapping import MAPPINGS
from zoo.nn.block_config import BlockConfig
from zoo.nn.frontends.image import PatchEmbedding, Stem, run_by_size
from zoo.nn.frontends.inputs import check_not_empty
from zoo.nn.grid_attention import has_grid, on_grid
from zoo.nn.heads import (
    AttentionPooling,
    ClassificationHead,
    DistilledClassificationHead,
    DistilledPooling,
    PoolingHead,
)
from zoo.preprocessing.image import ImageProcessor

Size = int | tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ViTConfig(Config):
    """image_size, patch_size: in pixels, one number or (rows, columns). width: of the tokens; mlp_dim: hidden width of
    the MLP (None: 4 * width). problem_type: of head="classify", see `ProblemType`. distilled: True for DeiT's
    distillation token and head, "token" for the token only (DeiT as fine-tuned by transformers). registers: number of
    register tokens.
    position_prefix: number of prefix tokens with a position embedding (None: all but registers). pool: "cls", "mean",
    "cls_mean" (both concatenated) or "map" (attention pooling with a learned query, SigLIP). pool_norm: the final norm
    is after pooling instead of before. pre_norm: a norm before the blocks, and no bias in the patch embedding (CLIP).
    position_antialias: resample the position embeddings for other image sizes with antialiasing (timm) or without it
    (transformers, except DINOv2 with registers).
    cut_edges: image_size need not be a multiple of patch_size, the rest at the right and bottom is ignored."""

    head: str | None = "classify"
    image_size: Size = 224
    patch_size: Size = 16
    in_chans: int = 3
    num_classes: int = 1000
    problem_type: ProblemType | None = None
    width: int = 768
    depth: int = 12
    heads: int = 12
    kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    act: str = "gelu"
    gated_mlp: bool = False
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    layer_scale: float | None = None
    stem: Stem = "patch"
    class_token: bool = True
    distilled: bool | Literal["token"] = False
    registers: int = 0
    position_prefix: int | None = None
    position_antialias: bool = True
    pre_norm: bool = False
    cut_edges: bool = False
    pool: Literal["cls", "mean", "cls_mean", "map"] = "cls"
    pool_norm: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    attention: Any = "softmax"
    mixer: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head not in (None, "classify", "pool"):
            raise ValueError(f"head={self.head!r}: ViT has the heads 'classify', 'pool' and None (hidden states)")
        if not self.class_token and (self.pool not in ("mean", "map") or self.distilled):
            raise ValueError("class_token=False needs pool='mean' or pool='map', and distilled=False")
        if self.pool == "map" and self.pool_norm:
            raise ValueError("pool='map' includes a norm: it needs pool_norm=False")
        if self.distilled and (self.pool != "cls" or self.registers or self.pool_norm):
            raise ValueError(f"distilled={self.distilled!r} needs registers=0, pool='cls' and pool_norm=False")


class ViT(TimmFeatures, Model):
    """forward(pixel_values [B, C, H, W]) -> class scores [B, num_classes].

    A list of images [C, H, W] may contain several sizes that are multiples of patch_size: images of one size are a
    batch, none is padded, and the position embeddings are resampled for each size (like timm's dynamic_img_size).
    """

    inputs = ("pixel_values",)

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        c = config
        norm = BlockConfig.of(c).make_norm() if c.pre_norm else None
        self.patches = PatchEmbedding(
            pair(c.image_size),
            pair(c.patch_size),
            c.in_chans,
            c.width,
            stem=c.stem,
            class_token=c.class_token,
            distilled=bool(c.distilled),
            registers=c.registers,
            position_prefix=c.position_prefix,
            norm=norm,
            stride=pair(c.patch_size) if c.cut_edges else None,
            antialias=c.position_antialias,
        )
        spec = BlockConfig.of(c, attention=on_grid(c.attention, self.patches.grid[1], self.patches.prefix))
        self.blocks = spec.stack(c.depth, final_norm=not c.pool_norm)
        self.head = self.make_head()

    @property
    def num_features(self) -> int:
        return self.config.width * (2 if self.config.pool == "cls_mean" else 1)

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head is None:
            return None
        if c.distilled is True:
            return DistilledClassificationHead(c.width, c.num_classes) if c.head == "classify" else DistilledPooling()
        if c.pool == "map":
            return AttentionPooling(BlockConfig.of(c), c.num_classes if c.head == "classify" else None)
        norm = nn.LayerNorm(self.num_features, c.norm_eps) if c.pool_norm else None
        if c.head == "pool":
            return PoolingHead(c.pool, self.patches.prefix, norm)
        return ClassificationHead(c.pool, self.patches.prefix, self.num_features, c.num_classes, norm)

    def default_preprocess(self) -> ImageProcessor:
        c = self.config
        return ImageProcessor(size=pair(c.image_size), channels=c.in_chans, mean=(0.5,), std=(0.5,))

    def forward(self, pixel_values: Tensor | Sequence[Tensor] | None = None, **unknown: Any) -> Tensor:
        if type(unknown) is not dict:  # torch.fx
            return trace_forward(self, pixel_values)
        if unknown or pixel_values is None:
            self.check_inputs(unknown, pixel_values)
        assert pixel_values is not None
        head = self.head
        if isinstance(pixel_values, Tensor):
            x = self.encode(pixel_values)
            return x if head is None else head(x)
        if head is None:
            raise ValueError(
                "images of several sizes need a head: with head=None the hidden states have several lengths"
            )
        shapes = {tuple(x.shape[-2:]) for x in pixel_values} - {self.patches.image_size}
        if shapes and any(has_grid(m) for m in self.blocks.modules()):
            raise ValueError(
                "attention on a grid (grid=, axial and conv_like kinds) needs images of "
                f"{self.patches.image_size}, got {shapes.pop()}"
            )
        return run_by_size(pixel_values, lambda group: head(self.blocks(self.embed(group, any_size=True))))

    def embed(self, pixel_values: Tensor, any_size: bool = False) -> Tensor:
        """[B, C, H, W] -> [B, N, D]. any_size: allow any multiple of patch_size, not only the config's image_size."""
        check_not_empty(pixel_values, "pixel_values")
        return self.patches(pixel_values, any_size)

    def encode(self, pixel_values: Tensor, layers: Sequence[int] | None = None) -> Any:
        return self.blocks(self.embed(pixel_values), layers=layers)


def pair(size: Size) -> tuple[int, int]:
    """(rows, columns) of a size."""
    return (size, size) if isinstance(size, int) else size


TINY = dict(width=192, heads=3)
SMALL = dict(width=384, heads=6)
BASE: dict[str, Any] = {}
LARGE = dict(width=1024, depth=24, heads=16)
HUGE = dict(width=1280, depth=32, heads=16)
DEIT3 = dict(layer_scale=1e-6, position_prefix=0)
DINO = dict(patch_size=14, image_size=518, layer_scale=1e-5, num_classes=0, head="pool")
REG4 = dict(registers=4, position_prefix=0)
GIANT_DINO = dict(width=1536, depth=40, heads=24, mlp_dim=4096, gated_mlp=True, act="silu")
CIFAR = dict(image_size=32, patch_size=4, num_classes=10)
CIFAR_CONV = CIFAR | dict(stem="conv", class_token=False, pool="mean")

CLIP = dict(pre_norm=True, norm_eps=1e-5)
QUICK = CLIP | dict(act="quick_gelu")
SIGLIP = dict(class_token=False, pool="map", num_classes=0, head="pool")
SO400M = dict(width=1152, depth=27, heads=16, mlp_dim=4304)
GIANT_CLIP = dict(width=1408, depth=40, heads=16, mlp_dim=6144)
GIGANTIC_CLIP = dict(width=1664, depth=48, heads=16, mlp_dim=8192)

VARIANTS: dict[str, dict[str, Any]] = {
    "vit_cifar_tiny": CIFAR_CONV | dict(width=96, depth=5, heads=3, mlp_dim=288),
    "vit_cifar_small": CIFAR_CONV | dict(width=128, depth=7, heads=4, mlp_dim=384),
    "vit_cifar": CIFAR | dict(width=192, depth=12, heads=3),
    "vit_tiny_patch16_224": TINY,
    "vit_tiny_patch16_384": TINY | dict(image_size=384),
    "vit_small_patch32_224": SMALL | dict(patch_size=32),
    "vit_small_patch16_224": SMALL,
    "vit_small_patch16_384": SMALL | dict(image_size=384),
    "vit_small_patch8_224": SMALL | dict(patch_size=8),
    "vit_base_patch32_224": dict(patch_size=32),
    "vit_base_patch32_384": dict(patch_size=32, image_size=384),
    "vit_base_patch16_224": BASE,
    "vit_base_patch16_384": dict(image_size=384),
    "vit_base_patch8_224": dict(patch_size=8),
    "vit_large_patch32_384": LARGE | dict(patch_size=32, image_size=384),
    "vit_large_patch16_224": LARGE,
    "vit_large_patch16_384": LARGE | dict(image_size=384),
    "vit_large_patch14_224": LARGE | dict(patch_size=14),
    "vit_huge_patch14_224": HUGE | dict(patch_size=14),
    "deit_tiny_patch16_224": TINY,
    "deit_small_patch16_224": SMALL,
    "deit_base_patch16_224": BASE,
    "deit_base_patch16_384": dict(image_size=384),
    "deit_tiny_distilled_patch16_224": TINY | dict(distilled=True),
    "deit_small_distilled_patch16_224": SMALL | dict(distilled=True),
    "deit_base_distilled_patch16_224": dict(distilled=True),
    "deit_base_distilled_patch16_384": dict(distilled=True, image_size=384),
    "deit3_small_patch16_224": SMALL | DEIT3,
    "deit3_small_patch16_384": SMALL | DEIT3 | dict(image_size=384),
    "deit3_medium_patch16_224": dict(width=512, heads=8) | DEIT3,
    "deit3_base_patch16_224": DEIT3,
    "deit3_base_patch16_384": DEIT3 | dict(image_size=384),
    "deit3_large_patch16_224": LARGE | DEIT3,
    "deit3_large_patch16_384": LARGE | DEIT3 | dict(image_size=384),
    "deit3_huge_patch14_224": HUGE | DEIT3 | dict(patch_size=14),
    "vit_small_patch14_dinov2": SMALL | DINO,
    "vit_base_patch14_dinov2": DINO,
    "vit_large_patch14_dinov2": LARGE | DINO,
    "vit_giant_patch14_dinov2": GIANT_DINO | DINO,
    "vit_small_patch14_reg4_dinov2": SMALL | DINO | REG4,
    "vit_base_patch14_reg4_dinov2": DINO | REG4,
    "vit_large_patch14_reg4_dinov2": LARGE | DINO | REG4,
    "vit_giant_patch14_reg4_dinov2": GIANT_DINO | DINO | REG4,
    "vit_base_patch32_clip_224": CLIP | dict(patch_size=32),
    "vit_base_patch16_clip_224": CLIP,
    "vit_base_patch16_clip_384": CLIP | dict(image_size=384),
    "vit_large_patch14_clip_224": LARGE | CLIP | dict(patch_size=14),
    "vit_large_patch14_clip_336": LARGE | CLIP | dict(patch_size=14, image_size=336),
    "vit_huge_patch14_clip_224": HUGE | CLIP | dict(patch_size=14),
    "vit_huge_patch14_clip_336": HUGE | CLIP | dict(patch_size=14, image_size=336),
    "vit_giant_patch14_clip_224": GIANT_CLIP | CLIP | dict(patch_size=14),
    "vit_gigantic_patch14_clip_224": GIGANTIC_CLIP | CLIP | dict(patch_size=14),
    "vit_base_patch32_clip_quickgelu_224": QUICK | dict(patch_size=32),
    "vit_base_patch16_clip_quickgelu_224": QUICK,
    "vit_large_patch14_clip_quickgelu_224": LARGE | QUICK | dict(patch_size=14),
    "vit_large_patch14_clip_quickgelu_336": LARGE | QUICK | dict(patch_size=14, image_size=336),
    "vit_base_patch16_siglip_224": SIGLIP,
    "vit_base_patch16_siglip_256": SIGLIP | dict(image_size=256),
    "vit_base_patch16_siglip_384": SIGLIP | dict(image_size=384),
    "vit_base_patch16_siglip_512": SIGLIP | dict(image_size=512),
    "vit_large_patch16_siglip_256": LARGE | SIGLIP | dict(image_size=256),
    "vit_large_patch16_siglip_384": LARGE | SIGLIP | dict(image_size=384),
    "vit_so400m_patch14_siglip_224": SO400M | SIGLIP | dict(patch_size=14),
    "vit_so400m_patch14_siglip_384": SO400M | SIGLIP | dict(patch_size=14, image_size=384, cut_edges=True),
}

SOURCES = {
    "vit_tiny_patch16_224": "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "vit_tiny_patch16_384": "hf-hub:timm/vit_tiny_patch16_384.augreg_in21k_ft_in1k",
    "vit_small_patch32_224": "hf-hub:timm/vit_small_patch32_224.augreg_in21k_ft_in1k",
    "vit_small_patch16_224": "hf-hub:timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
    "vit_small_patch16_384": "hf-hub:timm/vit_small_patch16_384.augreg_in21k_ft_in1k",
    "vit_small_patch8_224": "hf-hub:timm/vit_small_patch8_224.dino",
    "vit_base_patch32_224": "hf-hub:timm/vit_base_patch32_224.augreg_in21k_ft_in1k",
    "vit_base_patch32_384": "hf-hub:timm/vit_base_patch32_384.augreg_in21k_ft_in1k",
    "vit_base_patch16_224": "hf-hub:timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
    "vit_base_patch16_384": "hf-hub:timm/vit_base_patch16_384.augreg_in21k_ft_in1k",
    "vit_base_patch8_224": "hf-hub:timm/vit_base_patch8_224.augreg2_in21k_ft_in1k",
    "vit_large_patch32_384": "hf-hub:timm/vit_large_patch32_384.orig_in21k_ft_in1k",
    "vit_large_patch16_224": "hf-hub:timm/vit_large_patch16_224.augreg_in21k_ft_in1k",
    "vit_large_patch16_384": "hf-hub:timm/vit_large_patch16_384.augreg_in21k_ft_in1k",
    "deit_tiny_patch16_224": "hf-hub:timm/deit_tiny_patch16_224.fb_in1k",
    "deit_small_patch16_224": "hf-hub:timm/deit_small_patch16_224.fb_in1k",
    "deit_base_patch16_224": "hf-hub:timm/deit_base_patch16_224.fb_in1k",
    "deit_base_patch16_384": "hf-hub:timm/deit_base_patch16_384.fb_in1k",
    "deit_tiny_distilled_patch16_224": "hf-hub:timm/deit_tiny_distilled_patch16_224.fb_in1k",
    "deit_small_distilled_patch16_224": "hf-hub:timm/deit_small_distilled_patch16_224.fb_in1k",
    "deit_base_distilled_patch16_224": "hf-hub:timm/deit_base_distilled_patch16_224.fb_in1k",
    "deit_base_distilled_patch16_384": "hf-hub:timm/deit_base_distilled_patch16_384.fb_in1k",
    "deit3_small_patch16_224": "hf-hub:timm/deit3_small_patch16_224.fb_in22k_ft_in1k",
    "deit3_small_patch16_384": "hf-hub:timm/deit3_small_patch16_384.fb_in22k_ft_in1k",
    "deit3_medium_patch16_224": "hf-hub:timm/deit3_medium_patch16_224.fb_in22k_ft_in1k",
    "deit3_base_patch16_224": "hf-hub:timm/deit3_base_patch16_224.fb_in22k_ft_in1k",
    "deit3_base_patch16_384": "hf-hub:timm/deit3_base_patch16_384.fb_in22k_ft_in1k",
    "deit3_large_patch16_224": "hf-hub:timm/deit3_large_patch16_224.fb_in22k_ft_in1k",
    "deit3_large_patch16_384": "hf-hub:timm/deit3_large_patch16_384.fb_in22k_ft_in1k",
    "deit3_huge_patch14_224": "hf-hub:timm/deit3_huge_patch14_224.fb_in22k_ft_in1k",
    "vit_small_patch14_dinov2": "hf-hub:timm/vit_small_patch14_dinov2.lvd142m",
    "vit_base_patch14_dinov2": "hf-hub:timm/vit_base_patch14_dinov2.lvd142m",
    "vit_large_patch14_dinov2": "hf-hub:timm/vit_large_patch14_dinov2.lvd142m",
    "vit_giant_patch14_dinov2": "hf-hub:timm/vit_giant_patch14_dinov2.lvd142m",
    "vit_small_patch14_reg4_dinov2": "hf-hub:timm/vit_small_patch14_reg4_dinov2.lvd142m",
    "vit_base_patch14_reg4_dinov2": "hf-hub:timm/vit_base_patch14_reg4_dinov2.lvd142m",
    "vit_large_patch14_reg4_dinov2": "hf-hub:timm/vit_large_patch14_reg4_dinov2.lvd142m",
    "vit_giant_patch14_reg4_dinov2": "hf-hub:timm/vit_giant_patch14_reg4_dinov2.lvd142m",
}

TOWERS = (CLIP_VISION, SIGLIP_VISION)
FAMILY = Family(
    "vit",
    ViT,
    ViTConfig,
    "vision",
    VARIANTS,
    SOURCES,
    {"timm": MAPPINGS["timm"], "transformers": (*MAPPINGS["transformers"], *TOWERS)},
)
