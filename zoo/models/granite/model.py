"""Granite 4.0 (IBM 2025): most layers have the mixer of Mamba-2 and a few attention, with fixed factors throughout.

The factors of embeddings, residual branches, attention scores and logits come from maximal update parametrization
(https://arxiv.org/abs/2203.03466). Attention has no positions in hybrid stacks, and rotary ones where all layers have
attention. Dense models only: those with experts are not supported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from zoo.models.family import Family
from zoo.models.granite.mapping import TRANSFORMERS
from zoo.models.text import DecoderConfig, TextDecoder
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.heads import LMHead
from zoo.nn.masks import CAUSAL
from zoo.nn.rotary import rotary


@dataclass(frozen=True, kw_only=True)
class GraniteConfig(DecoderConfig):
    """mixer: "attention" or {"kind": "mamba2", ...} for each layer, see `zoo.nn.mixers.mamba2`. rope_base: base of the
    rotary frequencies, None for no positions. embedding_multiplier, residual_multiplier: factors of the embeddings and
    of the residual branches. attention_multiplier: factor of q . k (None: head_dim ** -0.5). logits_scaling: the logits
    are divided by it. See DecoderConfig for the other fields."""

    vocab_size: int = 100352
    max_length: int = 131072
    width: int = 2048
    depth: int = 40
    heads: int = 32
    kv_heads: int | None = 8
    mlp_dim: int | None = 8192
    act: str = "silu"
    rope_base: float | None = None
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    attention_multiplier: float | None = None
    logits_scaling: float = 1.0


class ResidualMultiplier(nn.Module):
    """A fixed factor of a residual branch."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return x * self.value


class Granite(TextDecoder):
    """forward(input_ids [B, N], attention_mask) -> logits of the next token [B, N, V]."""

    def __init__(self, config: GraniteConfig) -> None:
        super().__init__(config)
        c = config
        self.tokens = TextEmbedding(c.vocab_size, c.width, dropout=c.dropout, scale=c.embedding_multiplier)
        spec = BlockConfig.of(c, gated_mlp=True, norm="rms", bias=False, causal=True, scale=c.attention_multiplier)
        self.blocks = spec.stack(c.depth)
        if c.residual_multiplier != 1:
            for block in self.blocks:
                block.scale1 = block.scale2 = ResidualMultiplier(c.residual_multiplier)
        self.head = self.make_head()

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head == "lm":
            tied = self.tokens.word if c.tie_word_embeddings else None
            return LMHead(c.width, c.vocab_size, tied, scale=1 / c.logits_scaling)
        return self.common_head(bias=c.head != "classify")

    def context(self, positions: Tensor) -> Context:
        c = self.config
        if c.rope_base is None:
            return Context(mask=CAUSAL)
        return Context(mask=CAUSAL, rotary=rotary(positions, c.head_dim or c.width // c.heads, c.rope_base))


def layers(depth: int, attention: Sequence[int], **options: Any) -> tuple[Any, ...]:
    """Mixers of Mamba-2 with these options, and attention in the layers `attention`."""
    mamba = {"kind": "mamba2"} | options
    return tuple("attention" if layer in attention else mamba for layer in range(depth))


TOKENS = dict(bos_token_id=100257, eos_token_id=100257, pad_token_id=100256)
GRANITE4 = TOKENS | dict(embedding_multiplier=12.0, residual_multiplier=0.22, attention_multiplier=0.015625)

VARIANTS: dict[str, dict[str, Any]] = {
    "granite4_h_350m": GRANITE4 | dict(
        max_length=32768, width=768, depth=32, heads=12, kv_heads=4, mlp_dim=2048, residual_multiplier=0.246,
        logits_scaling=3.0, mixer=layers(32, (10, 13, 17, 27), heads=48),
    ),
    "granite4_h_1b": GRANITE4 | dict(
        width=1536, heads=12, kv_heads=4, mlp_dim=4096, attention_multiplier=0.0078125, logits_scaling=6.0,
        mixer=layers(40, (5, 15, 25, 35), heads=48),
    ),
    "granite4_h_micro": GRANITE4 | dict(logits_scaling=8.0, mixer=layers(40, (5, 15, 25, 35), heads=64)),
    "granite4_350m": GRANITE4 | dict(
        max_length=32768, width=1024, depth=28, heads=16, kv_heads=4, mlp_dim=2048, residual_multiplier=0.263,
        logits_scaling=4.0, rope_base=1e7,
    ),
    "granite4_nano": dict(
        vocab_size=256, max_length=256, width=192, depth=6, heads=6, kv_heads=2, mlp_dim=512,
        embedding_multiplier=12.0, residual_multiplier=0.5, logits_scaling=2.0,
        mixer=layers(6, (2, 5), heads=6, state=32),
    ),
}  # fmt: skip

SOURCES = {
    "granite4_h_350m": "hf-hub:ibm-granite/granite-4.0-h-350m-base",
    "granite4_h_1b": "hf-hub:ibm-granite/granite-4.0-h-1b-base",
    "granite4_h_micro": "hf-hub:ibm-granite/granite-4.0-h-micro-base",
    "granite4_350m": "hf-hub:ibm-granite/granite-4.0-350m-base",
}

FAMILY = Family("granite", Granite, GraniteConfig, "text", VARIANTS, SOURCES, {"transformers": TRANSFORMERS})
