"""Gemma (Gemma Team 2024): rotary positions, RMSNorm, a gated MLP, heads of any width, embeddings times sqrt(width).

Gemma 2 (https://arxiv.org/abs/2408.00118) adds norms after attention and MLP, a window in every other layer, and soft
caps of attention scores and logits. Gemma 3 (https://arxiv.org/abs/2503.19786) has norms of q and k instead of caps, a
window in five of six layers, and a rotary base of their own for these. All of this is fields of the config.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.models.family import Family
from zoo.models.gemma.mapping import MAPPINGS
from zoo.models.llama.rope_scaling import check_scaling, scaled_rotary
from zoo.models.text import DecoderConfig, TextDecoder
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.heads import LMHead
from zoo.nn.kernels import HALF
from zoo.nn.masks import CAUSAL


@dataclass(frozen=True, kw_only=True)
class GemmaConfig(DecoderConfig):
    """attention: None for the published pattern: full attention in every `global_every`-th layer, the last `window`
    tokens in the others (window=None: full attention in all); any other kind is used in all layers.

    rope_base, rope_scaling: as in LlamaConfig. local_rope_base: the base of the layers with a window, without scaling;
    None: as in the others. order: "sandwich" for norms before and after attention and MLP. qk_norm: as in BlockConfig.
    query_pre_attn_scalar: scores are divided by its square root (None: head_dim). attention_softcap, logits_softcap:
    smooth bounds c of attention scores and logits, c tanh(x / c). See DecoderConfig for the other fields.
    """

    vocab_size: int = 256000
    max_length: int = 8192
    width: int = 2048
    depth: int = 18
    heads: int = 8
    kv_heads: int | None = 1
    head_dim: int | None = 256
    mlp_dim: int | None = 16384
    act: str = "gelu_tanh"
    norm_eps: float = 1e-6
    attention: Any = None
    window: int | None = None
    global_every: int = 1
    rope_base: float = 10000.0
    rope_scaling: dict | None = None
    local_rope_base: float | None = None
    order: Literal["pre", "sandwich"] = "pre"
    qk_norm: bool = False
    query_pre_attn_scalar: float | None = None
    attention_softcap: float | None = None
    logits_softcap: float | None = None
    bos_token_id: int | None = 2
    eos_token_id: int | tuple[int, ...] | None = 1
    pad_token_id: int | None = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scaling(self.rope_scaling)
        for name in ("window", "query_pre_attn_scalar", "attention_softcap", "logits_softcap", "local_rope_base"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name}={value!r}: expected a positive number, or None")
        if self.global_every < 1:
            raise ValueError(f"global_every={self.global_every}: expected at least 1, for full attention in all layers")

    def is_local(self, layer: int) -> bool:
        """Whether a layer has a window in the published pattern."""
        return self.window is not None and (layer + 1) % self.global_every > 0


class GemmaEmbedding(TextEmbedding):
    """Token embeddings times sqrt(width), a factor that is rounded to their dtype as in training: sqrt(3072) = 55.43 is
    55.5 in bfloat16."""

    def __init__(self, vocab_size: int, width: int, **options: Any) -> None:
        super().__init__(vocab_size, width, scale=width**0.5, **options)
        self.rounded = {dtype: float(torch.tensor(self.scale, dtype=dtype, device="cpu")) for dtype in HALF}

    def embed_words(self, ids: Tensor) -> Tensor:
        x = self.lookup(self.word, ids, "token id")
        return x * self.rounded.get(x.dtype, self.scale)


class Gemma(TextDecoder):
    """forward(input_ids [B, N], attention_mask) -> logits of the next token [B, N, V]."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__(config)
        c = config
        self.tokens = GemmaEmbedding(c.vocab_size, c.width, dropout=c.dropout, padding_idx=c.pad_token_id)
        local = {"kind": "local", "window": c.window}
        published = tuple(local if c.is_local(layer) else "softmax" for layer in range(c.depth))
        spec = BlockConfig.of(
            c,
            gated_mlp=True,
            norm="rms_unit_offset",
            bias=False,
            causal=True,
            attention=published if c.attention is None else c.attention,
            scale=None if c.query_pre_attn_scalar is None else c.query_pre_attn_scalar**-0.5,
            softcap=c.attention_softcap,
        )
        self.blocks = spec.stack(c.depth)
        self.head = self.make_head()

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head == "lm":
            return LMHead(
                c.width, c.vocab_size, self.tokens.word if c.tie_word_embeddings else None, softcap=c.logits_softcap
            )
        return self.common_head(bias=c.head != "classify")

    def context(self, positions: Tensor) -> Context:
        c = self.config
        dim = c.head_dim or c.width // c.heads
        full = scaled_rotary(positions, dim, c.rope_base, c.rope_scaling)
        if c.local_rope_base is None or not any(map(c.is_local, range(c.depth))):
            return Context(mask=CAUSAL, rotary=full)
        local = scaled_rotary(positions, dim, c.local_rope_base, None)
        return Context(mask=CAUSAL, rotary=tuple(local if c.is_local(layer) else full for layer in range(c.depth)))


GEMMA2: dict[str, Any] = dict(
    window=4096, global_every=2, order="sandwich", query_pre_attn_scalar=256.0, attention_softcap=50.0,
    logits_softcap=30.0,
)  # fmt: skip
GEMMA3: dict[str, Any] = dict(
    vocab_size=262144, max_length=131072, window=1024, global_every=6, order="sandwich", qk_norm=True, rope_base=1e6,
    local_rope_base=10000.0, query_pre_attn_scalar=256.0,
)  # fmt: skip
LONG: dict[str, Any] = dict(vocab_size=262208, rope_scaling={"kind": "linear", "factor": 8.0})

VARIANTS: dict[str, dict[str, Any]] = {
    "gemma_2b": {},
    "gemma_7b": dict(width=3072, depth=28, heads=16, kv_heads=16, mlp_dim=24576),
    "gemma2_2b": GEMMA2 | dict(width=2304, depth=26, kv_heads=4, mlp_dim=9216),
    "gemma2_9b": GEMMA2 | dict(width=3584, depth=42, heads=16, kv_heads=8, mlp_dim=14336),
    "gemma2_27b": GEMMA2 | dict(
        width=4608, depth=46, heads=32, kv_heads=16, head_dim=128, mlp_dim=36864, query_pre_attn_scalar=144.0
    ),
    "gemma3_270m": GEMMA3 | dict(width=640, heads=4, mlp_dim=2048, max_length=32768, window=512),
    "gemma3_1b": GEMMA3 | dict(width=1152, depth=26, heads=4, mlp_dim=6912, max_length=32768, window=512),
    "gemma3_4b": GEMMA3 | LONG | dict(width=2560, depth=34, kv_heads=4, mlp_dim=10240),
    "gemma3_12b": GEMMA3 | LONG | dict(width=3840, depth=48, heads=16, kv_heads=8, mlp_dim=15360),
    "gemma3_27b": GEMMA3 | LONG | dict(
        width=5376, depth=62, heads=32, kv_heads=16, head_dim=128, mlp_dim=21504, query_pre_attn_scalar=168.0
    ),
    "gemma_nano": dict(
        vocab_size=256, max_length=256, width=192, depth=6, heads=6, kv_heads=2, head_dim=32, mlp_dim=512, window=64,
        global_every=3, order="sandwich", qk_norm=True, rope_base=1e6, local_rope_base=10000.0, bos_token_id=None,
        eos_token_id=None, pad_token_id=None,
    ),
}  # fmt: skip

SOURCES = {
    "gemma_2b": "hf-hub:google/gemma-2b",
    "gemma_7b": "hf-hub:google/gemma-7b",
    "gemma2_2b": "hf-hub:google/gemma-2-2b",
    "gemma2_9b": "hf-hub:google/gemma-2-9b",
    "gemma2_27b": "hf-hub:google/gemma-2-27b",
    "gemma3_270m": "hf-hub:google/gemma-3-270m",
    "gemma3_1b": "hf-hub:google/gemma-3-1b-pt",
}

FAMILY = Family("gemma", Gemma, GemmaConfig, "text", VARIANTS, SOURCES, {"transformers": MAPPINGS})
