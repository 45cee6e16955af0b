"""ModernBERT (Warner et al. 2024): rotary positions, a gated MLP, no biases, local attention in two of three layers."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from zoo.models.family import Family
from zoo.models.modernbert.mapping import MODERNBERT
from zoo.models.text import HEADS, TextConfig, TextModel
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.heads import MaskedLMHead, TextPooling, TokenClassificationHead
from zoo.nn.rotary import rotary


@dataclass(frozen=True, kw_only=True)
class ModernBertConfig(TextConfig):
    """attention: None for the published pattern, full attention in every `global_every`-th layer and a local window of
    `window` tokens in the others; any other kind is used in all layers. rope, local_rope: rotary bases of the full and
    of the local layers. pooler: activation of the dense layer of the heads. normalize: L2-normalize pooled features.
    tie_word_embeddings: the masked-LM head uses the word embeddings. pad_token_id: the padding token. See TextConfig
    for the other fields."""

    head: str | None = "masked_lm"
    vocab_size: int = 50368
    max_length: int = 8192
    width: int = 768
    depth: int = 22
    heads: int = 12
    mlp_dim: int | None = 1152
    norm_eps: float = 1e-5
    attention: Any = None
    window: int = 128
    global_every: int = 3
    rope: float = 160000.0
    local_rope: float = 10000.0
    pooler: Literal["gelu", "silu", "tanh", "relu"] = "gelu"
    normalize: bool = False
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 50283

    def __post_init__(self) -> None:
        super().__post_init__()
        self.allow_heads("masked_lm", *HEADS)
        if self.window < 2 or self.global_every < 1:
            raise ValueError(f"window={self.window}, global_every={self.global_every}: expected at least 2 and 1")

    def is_local(self, layer: int) -> bool:
        """Whether a layer has local attention in the published pattern."""
        return layer % self.global_every > 0


class ModernBert(TextModel):
    """forward(input_ids [B, N], attention_mask) -> output of the head; see TextModel."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config)
        c = config
        local = {"kind": "local", "window": c.window}
        published = tuple(local if c.is_local(layer) else "softmax" for layer in range(c.depth))
        spec = BlockConfig.of(
            c,
            gated_mlp=True,
            norm="layer_unbiased",
            bias=False,
            attention=published if c.attention is None else c.attention,
        )
        self.make_norm = spec.make_norm
        self.tokens = TextEmbedding(c.vocab_size, c.width, norm=spec.make_norm(), dropout=c.dropout)
        self.blocks = spec.stack(c.depth)
        self.blocks[0].norm1 = nn.Identity()  # the embedding ends with a norm
        self.head = self.make_head()

    def make_head(self) -> nn.Module | None:
        c = self.config
        dense: dict[str, Any] = dict(dense=c.pooler, norm=self.make_norm(), dense_bias=False)
        if c.head == "masked_lm":
            word = self.tokens.word if c.tie_word_embeddings else None
            return MaskedLMHead(c.width, c.vocab_size, self.make_norm(), act=c.pooler, tied=word, dense_bias=False)
        if c.head in ("token", "qa"):
            return TokenClassificationHead(c.width, c.num_classes if c.head == "token" else 2, c.dropout, **dense)
        if c.head == "pool":
            return TextPooling(c.pool, c.width, normalize=c.normalize)
        return self.common_head(**dense)

    def context(self, positions: Tensor) -> Context:
        c = self.config
        width = c.head_dim or c.width // c.heads
        full, local = (rotary(positions, width, base) for base in (c.rope, c.local_rope))
        return Context(rotary=tuple(local if c.is_local(layer) else full for layer in range(c.depth)))


VARIANTS: dict[str, dict[str, Any]] = {
    "modernbert_tiny": dict(width=192, depth=6, heads=3, mlp_dim=288),
    "modernbert_small": dict(width=384, depth=12, heads=6, mlp_dim=576),
    "modernbert_base": {},
    "modernbert_large": dict(width=1024, depth=28, heads=16, mlp_dim=2624),
}

SOURCES = {
    "modernbert_base": "hf-hub:answerdotai/ModernBERT-base",
    "modernbert_large": "hf-hub:answerdotai/ModernBERT-large",
}

FAMILY = Family("modernbert", ModernBert, ModernBertConfig, "text", VARIANTS, SOURCES, {"transformers": MODERNBERT})
