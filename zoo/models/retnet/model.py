"""RetNet (Sun et al. 2023): a decoder with multi-scale retention in place of attention.

The sizes are those of the paper (table 2) and the parts those of torchscale's: RMSNorm, values of twice the width, and
an MLP of twice the width, or with `gated_mlp` a gated one. There are no published weights.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from zoo.models.family import Family
from zoo.models.text import DecoderConfig, TextDecoder
from zoo.nn.block_config import BlockConfig
from zoo.nn.frontends.text import TextEmbedding


@dataclass(frozen=True, kw_only=True)
class RetNetConfig(DecoderConfig):
    """Config of RetNet; see DecoderConfig.

    mlp_dim: None for 2 * width. gated_mlp: down(act(gate(x)) * up(x)), as later versions of torchscale have it.
    value_dim: width of the values of retention (None: 2 * width). chunk: tokens that retention takes at a time.
    mixer: None for retention; `attention` is for layers whose mixer is "attention". max_length: length of the texts
    that the model was trained on; there is no limit.
    """

    vocab_size: int = 50257
    max_length: int = 2048
    width: int = 2048
    depth: int = 24
    heads: int = 8
    gated_mlp: bool = False
    value_dim: int | None = None
    chunk: int = 64
    norm_eps: float = 1e-6
    own_mixer: ClassVar[str] = "retention"


class RetNet(TextDecoder):
    """forward(input_ids [B, N], attention_mask) -> logits of the next token [B, N, V]."""

    def __init__(self, config: RetNetConfig) -> None:
        super().__init__(config)
        c = config
        retention = {"kind": "retention", "value_dim": c.value_dim or 2 * c.width, "chunk": c.chunk}
        spec = BlockConfig.of(
            c,
            norm="rms",
            bias=False,
            causal=True,
            mlp_dim=2 * c.width if c.mlp_dim is None else c.mlp_dim,
            mixer=retention if c.mixer is None else c.mixer,
        )
        self.tokens = TextEmbedding(c.vocab_size, c.width, dropout=c.dropout)
        self.blocks = spec.stack(c.depth)
        self.head = self.make_head()


VARIANTS: dict[str, dict[str, Any]] = {
    "retnet_1b3": {},
    "retnet_2b7": dict(width=2560, depth=32, heads=10),
    "retnet_6b7": dict(width=4096, depth=32, heads=16),
    "retnet_nano": dict(vocab_size=256, max_length=256, width=192, depth=6, heads=3),
}

FAMILY = Family("retnet", RetNet, RetNetConfig, "text", VARIANTS)
