"""wav2vec 2.0 (Baevski et al. 2020): a convolutional waveform encoder, convolutional positions, a Transformer encoder.

Also the base class of HuBERT, which has the same network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.models.base import Model
from zoo.models.config import Config, ProblemType
from zoo.models.family import Family
from zoo.models.wav2vec2.mapping import TRANSFORMERS
from zoo.nn.block_config import BlockConfig
from zoo.nn.frontends.inputs import check_not_empty
from zoo.nn.frontends.waveform import ConvNorm, ConvPositions, WaveformEmbedding, min_samples_for
from zoo.nn.heads import AudioClassificationHead, FrameClassificationHead, TextPooling, WeightedLayerSum
from zoo.nn.lengths import AnyLengths, Lengths
from zoo.preprocessing.waveform import WaveformFeatureExtractor

HEADS = ("ctc", "classify", "token", "pool", None)


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2Config(Config):
    """conv_channels, conv_kernels, conv_strides: of the convolutions over samples, see WaveformEmbedding.

    order: of the norms in a block, "pre" is called stable layer norm in the papers. position_kernel, position_groups:
    of the convolution that embeds positions. vocab_size, blank: number of symbols of head="ctc", and its blank symbol.
    classifier_width: hidden width of head="classify". layer_sum: head="classify" and head="token" (a class per frame)
    use a learned weighted sum of all layers.
    """

    head: str | None = None
    conv_channels: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    conv_norm: ConvNorm = "group"
    conv_act: str = "gelu"
    feature_norm: bool = True
    position_kernel: int = 128
    position_groups: int = 16
    vocab_size: int = 32
    blank: int = 0
    num_classes: int = 2
    problem_type: ProblemType | None = None
    classifier_width: int = 256
    layer_sum: bool = False
    width: int = 768
    depth: int = 12
    heads: int = 12
    kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    act: str = "gelu"
    order: Literal["pre", "post"] = "post"
    norm_eps: float = 1e-5
    dropout: float = 0.1
    attention_dropout: float = 0.1
    drop_path: float = 0.0
    attention: Any = "softmax"
    mixer: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.allow_heads(*HEADS)
        sizes = {name: getattr(self, f"conv_{name}") for name in ("channels", "kernels", "strides")}
        if len({len(size) for size in sizes.values()}) > 1 or min(min(size, default=0) for size in sizes.values()) < 1:
            given = ", ".join(f"conv_{name}={size}" for name, size in sizes.items())
            raise ValueError(f"{given}: expected the same number of each, all at least 1")
        if not 0 <= self.blank < self.vocab_size:
            raise ValueError(f"blank={self.blank} is not one of vocab_size={self.vocab_size} symbols")

    def samples(self, tokens: int) -> int:
        """The smallest number of samples that gives this number of tokens."""
        return min_samples_for(tokens, self.conv_kernels, self.conv_strides)


class Wav2Vec2(Model):
    """forward(input_values [B, S], attention_mask [B, S]) -> output of the head: [B, N, D], ctc [B, N, V], ...

    attention_mask is 1 for real samples. Padding does not affect the output: each clip gives the same output as alone,
    in the first tokens of its row. `frames` returns their number. lengths: of the clips in samples, see
    `Model.check_lengths`.
    """

    inputs = ("input_values", "attention_mask", "lengths")

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        c = config
        spec = BlockConfig.of(c)
        self.waves = WaveformEmbedding(
            c.conv_channels,
            c.conv_kernels,
            c.conv_strides,
            c.width,
            conv_bias=c.conv_bias,
            conv_norm=c.conv_norm,
            act=c.conv_act,
            positions=ConvPositions(c.width, c.position_kernel, c.position_groups, c.conv_act),
            feature_norm=spec.make_norm(c.conv_channels[-1]) if c.feature_norm else None,
            norm=spec.make_norm() if c.order == "post" else None,
        )
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = spec.stack(c.depth)
        self.head = self.make_head()

    def make_head(self) -> nn.Module | None:
        c = self.config
        layers = c.depth + 1 if c.layer_sum else None
        if c.head == "ctc":
            return FrameClassificationHead(c.width, c.vocab_size, dropout=c.dropout)
        if c.head == "token":
            return FrameClassificationHead(c.width, c.num_classes, layers)
        if c.head == "classify":
            return AudioClassificationHead(c.width, c.classifier_width, c.num_classes, layers)
        return TextPooling("mean", c.width) if c.head == "pool" else None

    def default_preprocess(self) -> WaveformFeatureExtractor:
        return WaveformFeatureExtractor(return_attention_mask=self.config.conv_norm == "layer")

    def frames(self, samples: Any) -> Any:
        """Number of tokens of clips with this number of samples: an int, or a tensor [B]."""
        return self.waves.frames(samples)

    def embed(
        self, input_values: Tensor, attention_mask: Tensor | None = None, lengths: AnyLengths | None = None
    ) -> tuple[Tensor, Tensor | None, Lengths | None]:
        """[B, S] -> (tokens [B, N, D], mask of real tokens [B, N], their number in each row on the host).

        The last two are None if all tokens are real, the last also if the host does not know them.
        """
        check_not_empty(input_values, "input_values")
        self.waves.check(input_values, attention_mask)
        attention_mask, lengths = self.check_lengths(lengths, attention_mask, input_values)
        x, keep = self.waves(input_values, attention_mask, lengths, drop_padding=self.drop_padding)
        frames = None if lengths is None else Lengths(map(self.frames, lengths))
        return self.dropout(x), keep, frames

    def encode(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        lengths: AnyLengths | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> Any:
        x, keep, frames = self.embed(input_values, attention_mask, lengths)
        return self.blocks(x, keep=keep, lengths=frames, layers=layers, drop_padding=self.drop_padding)

    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        lengths: AnyLengths | None = None,
        **unknown: Any,
    ) -> Tensor:
        if type(unknown) is not dict or unknown or input_values is None:
            input_values = self.check_inputs(unknown, input_values)
        x, keep, frames = self.embed(input_values, attention_mask, lengths)
        options: dict[str, Any] = {"keep": keep, "lengths": frames, "drop_padding": self.drop_padding}
        if isinstance(self.head, WeightedLayerSum) and self.head.mix is not None:
            _, outputs = self.blocks(x, layers=range(len(self.blocks)), **options)
            return self.head(torch.stack([x, *outputs]), keep)
        y = self.blocks(x, **options)
        return y if self.head is None else self.head(y, keep)

    def set_checkpointing(self, enabled: bool = True) -> None:
        """Turn gradient checkpointing on or off, also of the convolutions."""
        super().set_checkpointing(enabled)
        self.waves.checkpointing = enabled


LARGE = dict(width=1024, depth=24, heads=16)
STABLE = dict(conv_norm="layer", conv_bias=True, order="pre")
TINY: dict[str, Any] = STABLE | dict(
    conv_channels=(64, 128, 192, 192),
    conv_kernels=(10, 8, 4, 4),
    conv_strides=(5, 4, 4, 2),
    position_kernel=32,
    position_groups=8,
    width=192,
    depth=4,
    heads=3,
)
VARIANTS: dict[str, dict[str, Any]] = {
    "wav2vec2_tiny": TINY,
    "wav2vec2_base": {},
    "wav2vec2_base_960h": dict(head="ctc"),
    "wav2vec2_large": LARGE,
    "wav2vec2_large_lv60": LARGE | STABLE,
    "wav2vec2_large_960h_lv60_self": LARGE | STABLE | dict(head="ctc"),
    "wav2vec2_large_xlsr_53": LARGE | STABLE,
}

SOURCES = {
    "wav2vec2_base": "hf-hub:facebook/wav2vec2-base",
    "wav2vec2_base_960h": "hf-hub:facebook/wav2vec2-base-960h",
    "wav2vec2_large": "hf-hub:facebook/wav2vec2-large",
    "wav2vec2_large_lv60": "hf-hub:facebook/wav2vec2-large-lv60",
    "wav2vec2_large_960h_lv60_self": "hf-hub:facebook/wav2vec2-large-960h-lv60-self",
    "wav2vec2_large_xlsr_53": "hf-hub:facebook/wav2vec2-large-xlsr-53",
}

FAMILY = Family("wav2vec2", Wav2Vec2, Wav2Vec2Config, "audio", VARIANTS, SOURCES, {"transformers": TRANSFORMERS})
