"""AST, the Audio Spectrogram Transformer (Gong et al. 2021): a DeiT over overlapping patches of a mel spectrogram."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.ast.mapping import TRANSFORMERS
from zoo.models.base import Model
from zoo.models.config import Config, ProblemType
from zoo.models.family import Family
from zoo.models.load_report import LoadReport
from zoo.models.tracing import trace_forward
from zoo.models.vit.model import Size, ViT, pair
from zoo.nn.block_config import BlockConfig
from zoo.nn.frontends.image import resample_kernel
from zoo.nn.frontends.inputs import check_not_empty
from zoo.nn.frontends.spectrogram import SpectrogramEmbedding
from zoo.nn.heads import ClassificationHead, PoolingHead
from zoo.nn.init import initialize
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor


@dataclass(frozen=True, kw_only=True)
class ASTConfig(Config):
    """max_length: frames of the spectrogram; mel_bins: of each frame; patch_size, stride: (mel bins, frames), or one
    number for both; distilled: with DeiT's distillation token, pool="cls" is then the mean of both tokens. See
    ViTConfig for the other fields."""

    head: str | None = "classify"
    max_length: int = 1024
    mel_bins: int = 128
    patch_size: Size = 16
    stride: Size = 10
    num_classes: int = 527  # AudioSet's
    problem_type: ProblemType | None = None
    width: int = 768
    depth: int = 12
    heads: int = 12
    kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    act: str = "gelu"
    gated_mlp: bool = False
    norm_eps: float = 1e-12
    qkv_bias: bool = True
    layer_scale: float | None = None
    class_token: bool = True
    distilled: bool = True
    pool: Literal["cls", "mean"] = "cls"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    attention: Any = "softmax"
    mixer: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head not in (None, "classify", "pool"):
            raise ValueError(f"head={self.head!r}: AST has the heads 'classify', 'pool' and None (hidden states)")
        if not self.class_token and (self.pool != "mean" or self.distilled):
            raise ValueError("class_token=False needs pool='mean' and distilled=False")


class AST(Model):
    """forward(input_values [B, T, F]) -> class scores [B, num_classes]."""

    inputs = ("input_values",)
    family = "ast"

    def __init__(self, config: ASTConfig) -> None:
        super().__init__(config)
        c = config
        self.patches = SpectrogramEmbedding(
            c.mel_bins,
            c.max_length,
            pair(c.patch_size),
            pair(c.stride),
            c.width,
            class_token=c.class_token,
            distilled=c.distilled,
        )
        self.blocks = BlockConfig.of(c).stack(c.depth)
        self.head = self.make_head()

    def make_head(self) -> nn.Module | None:
        c = self.config
        pooling: Any = "prefix" if c.pool == "cls" else "mean"
        if c.head == "classify":
            return ClassificationHead(
                pooling, self.patches.prefix, c.width, c.num_classes, nn.LayerNorm(c.width, c.norm_eps)
            )
        return None if c.head is None else PoolingHead(pooling, self.patches.prefix)

    def default_preprocess(self) -> SpectrogramFeatureExtractor:
        return SpectrogramFeatureExtractor(frames=self.config.max_length, num_mel_bins=self.config.mel_bins)

    def forward(self, input_values: Tensor | None = None, **unknown: Any) -> Tensor:
        if type(unknown) is not dict:  # torch.fx
            return trace_forward(self, input_values)
        if unknown or input_values is None:
            input_values = self.check_inputs(unknown, input_values)
        x = self.encode(input_values)
        return x if self.head is None else self.head(x)

    def embed(self, input_values: Tensor) -> Tensor:
        """[B, T, F] -> [B, N, D]."""
        check_not_empty(input_values, "input_values")
        return self.patches(input_values)

    def encode(self, input_values: Tensor, layers: Sequence[int] | None = None) -> Any:
        return self.blocks(self.embed(input_values), layers=layers)


# --- From a ViT -------------------------------------------------------------------------------------------------------

# Fields that an AST takes from a ViT; the others describe the spectrogram and the head.
SHARED = (
    "patch_size", "width", "depth", "heads", "kv_heads", "head_dim", "mlp_dim", "act", "gated_mlp", "norm_eps",
    "qkv_bias", "layer_scale", "class_token", "attention", "mixer",
)  # fmt: skip


def from_vit(vit: Model, *, seed: int = 0, **config: Any) -> AST:
    """An AST initialized from a ViT or DeiT, as in section 2.2 of the paper. The ViT is not changed.

    The patch kernel is averaged over the color channels. Positions are cropped along a side where the spectrogram has
    fewer patches than the image, and interpolated where it has more. Prefix tokens are copied. The head is initialized
    from `seed`.

    config: fields of ASTConfig: max_length, mel_bins, stride, num_classes, ...; the shape of the blocks is that of the
    ViT. `load_report` of the result lists the tensors that were copied, resampled and initialized. Raises ValueError
    for a ViT with registers or a convolutional stem, which an AST does not have.
    """
    if not isinstance(vit, ViT):
        raise ValueError(f"expected a ViT or DeiT of this library, got {type(vit).__name__}")
    if vit.config.registers or vit.config.stem != "patch":
        raise ValueError("an AST has no registers and no convolutional stem: use a ViT without them")
    fields = {name: getattr(vit.config, name) for name in SHARED}
    fields |= {"distilled": bool(vit.config.distilled), "pool": "cls" if vit.config.class_token else "mean"}
    ASTConfig.check_names(config)
    if wrong := [name for name in config if name in SHARED and name not in ("patch_size", "attention", "mixer")]:
        raise ValueError(f"{wrong[0]}={config[wrong[0]]!r}: the shape of the blocks is that of the ViT")
    model = AST(ASTConfig().replace(**fields | config))
    initialize(model, seed)
    copied, resampled = shared_tensors(vit, model)
    names = model.state_dict().keys()
    model.load_state_dict(copied | resampled, strict=False)
    new = [name for name in names if name not in copied and name not in resampled]
    moved = "head.norm." if vit.config.pool_norm else "-"
    dropped = [n for n in vit.state_dict() if n not in copied and n not in resampled and not n.startswith(moved)]
    source = f"a {vit.variant or 'ViT'}"
    model.load_report = LoadReport(source, list(copied | resampled), dropped, new, list(resampled))
    model.preprocess = model.default_preprocess()
    return model


def shared_tensors(vit: ViT, model: AST) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(tensors of the ViT that are copied, tensors that are resampled), under the names of the AST."""
    state, own = vit.state_dict(), model.state_dict()
    copied = {name: t for name, t in state.items() if name in own and own[name].shape == t.shape}
    copied = {name: t for name, t in copied.items() if not name.startswith("head.")}
    if vit.config.pool_norm and "head.norm.weight" in state:  # the final norm of the ViT is after pooling
        copied |= {f"blocks.norm.{kind}": state[f"head.norm.{kind}"] for kind in ("weight", "bias")}
    kernel = resample_kernel(state["patches.proj.weight"].mean(1, keepdim=True), model.patches.patch_size)
    table, rows = state["patches.positions"], vit.patches.position_prefix
    prefix = table[:rows] if rows else table.new_zeros(model.patches.position_prefix, table.shape[1])
    grid = crop_or_interpolate(table[rows:], vit.patches.grid, model.patches.grid)
    return copied, {"patches.proj.weight": kernel, "patches.positions": torch.cat([prefix, grid])}


def crop_or_interpolate(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position embeddings [h * w, D] for another grid: center crop of a side that shrinks, bilinear otherwise."""
    image = positions.float().view(1, *old, -1).permute(0, 3, 1, 2)  # 1 D h w
    for axis in (0, 1):
        less = old[axis] - new[axis]
        if less > 0:
            image = image.narrow(2 + axis, old[axis] // 2 - new[axis] // 2, new[axis])
    image = F.interpolate(image, size=new, mode="bilinear") if tuple(image.shape[2:]) != new else image
    return image.flatten(2)[0].mT.to(positions.dtype)


# --- Variants ---------------------------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "ast_tiny": dict(max_length=128, mel_bins=64, stride=8, width=192, depth=6, heads=3, num_classes=10),
    "ast_small": dict(width=384, heads=6),
    "ast_base": {},
    "ast_base_14_14": dict(stride=14),
    "ast_base_speech_commands": dict(max_length=128, num_classes=35),
}

SOURCES = {
    "ast_base": "hf-hub:MIT/ast-finetuned-audioset-10-10-0.4593",
    "ast_base_14_14": "hf-hub:MIT/ast-finetuned-audioset-14-14-0.443",
    "ast_base_speech_commands": "hf-hub:MIT/ast-finetuned-speech-commands-v2",
}

FAMILY = Family("ast", AST, ASTConfig, "audio", VARIANTS, SOURCES, {"transformers": TRANSFORMERS})
