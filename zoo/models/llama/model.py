"""LLaMA (Touvron et al. 2023) and similar decoders: rotary positions, RMSNorm, a gated MLP, grouped-query attention.

Mistral adds a sliding window, Qwen2 biases of q, k and v, Qwen3 norms of q and k: these are fields of the config.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zoo.models.family import Family
from zoo.models.llama.mapping import MAPPINGS
from zoo.models.llama.rope_scaling import check_scaling, scaled_rotary
from zoo.models.text import DecoderConfig, TextDecoder
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.masks import CAUSAL
from zoo.nn.rotary import Rotary


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(DecoderConfig):
    """rope_base: base of the rotary frequencies. rope_scaling: a dict with "kind" ("linear", "llama3", "yarn") and its
    options, see SCALINGS. qkv_bias, qk_norm: as in BlockConfig. See DecoderConfig for the other fields."""

    vocab_size: int = 32000
    max_length: int = 4096
    width: int = 4096
    depth: int = 32
    heads: int = 32
    mlp_dim: int | None = 11008
    act: str = "silu"
    norm_eps: float = 1e-5
    rope_base: float = 10000.0
    rope_scaling: dict | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scaling(self.rope_scaling)


class Llama(TextDecoder):
    """forward(input_ids [B, N], attention_mask) -> logits of the next token [B, N, V]."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        c = config
        self.tokens = TextEmbedding(c.vocab_size, c.width, dropout=c.dropout)
        spec = BlockConfig.of(c, gated_mlp=True, norm="rms", bias=False, causal=True)
        self.blocks = spec.stack(c.depth)
        self.head = self.make_head()

    def context(self, positions: Tensor) -> Context:
        return Context(mask=CAUSAL, rotary=self.rotary(positions))

    def rotary(self, positions: Tensor) -> Rotary:
        """Rotary tables for tokens at `positions`, with the scaling of the config."""
        c = self.config
        dim = c.head_dim or c.width // c.heads
        return scaled_rotary(positions, dim, c.rope_base, c.rope_scaling)


LLAMA3 = dict(
    kind="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
)  # fmt: skip
LLAMA3_8B = dict(
    vocab_size=128256, max_length=8192, kv_heads=8, mlp_dim=14336, rope_base=500000.0, bos_token_id=128000,
    eos_token_id=128001,
)  # fmt: skip
LLAMA32 = LLAMA3_8B | dict(max_length=131072, rope_scaling=LLAMA3, tie_word_embeddings=True)
MISTRAL = dict(max_length=32768, kv_heads=8, mlp_dim=14336, bos_token_id=1, eos_token_id=2)
QWEN2 = dict(
    vocab_size=151936, max_length=131072, norm_eps=1e-6, rope_base=1e6, qkv_bias=True, bos_token_id=151643,
    eos_token_id=151643,
)  # fmt: skip
QWEN3 = dict(
    vocab_size=151936, max_length=40960, norm_eps=1e-6, rope_base=1e6, qk_norm=True, head_dim=128, kv_heads=8,
    bos_token_id=151643, eos_token_id=151645,
)  # fmt: skip

VARIANTS: dict[str, dict[str, Any]] = {
    "llama2_7b": dict(bos_token_id=1, eos_token_id=2),
    "llama2_13b": dict(width=5120, depth=40, heads=40, mlp_dim=13824, bos_token_id=1, eos_token_id=2),
    "llama2_70b": dict(width=8192, depth=80, heads=64, kv_heads=8, mlp_dim=28672, bos_token_id=1, eos_token_id=2),
    "llama3_8b": LLAMA3_8B,
    "llama31_8b": LLAMA3_8B | dict(max_length=131072, rope_scaling=LLAMA3 | {"factor": 8.0}),
    "llama32_1b": LLAMA32 | dict(width=2048, depth=16, head_dim=64, mlp_dim=8192),
    "llama32_3b": LLAMA32 | dict(width=3072, depth=28, heads=24, head_dim=128, mlp_dim=8192),
    "tinyllama_1b": dict(
        max_length=2048, width=2048, depth=22, kv_heads=4, mlp_dim=5632, bos_token_id=1, eos_token_id=2
    ),
    "mistral_7b": MISTRAL | dict(attention={"kind": "local", "window": 4096}),
    "mistral_7b_v03": MISTRAL | dict(vocab_size=32768, rope_base=1e6),
    "qwen2_0_5b": QWEN2 | dict(width=896, depth=24, heads=14, kv_heads=2, mlp_dim=4864, tie_word_embeddings=True),
    "qwen2_1_5b": QWEN2 | dict(width=1536, depth=28, heads=12, kv_heads=2, mlp_dim=8960, tie_word_embeddings=True),
    "qwen2_7b": QWEN2 | dict(vocab_size=152064, width=3584, depth=28, heads=28, kv_heads=4, mlp_dim=18944),
    "qwen3_0_6b": QWEN3 | dict(width=1024, depth=28, heads=16, mlp_dim=3072, tie_word_embeddings=True),
    "qwen3_1_7b": QWEN3 | dict(width=2048, depth=28, heads=16, mlp_dim=6144, tie_word_embeddings=True),
    "qwen3_8b": QWEN3 | dict(depth=36, mlp_dim=12288),
    "llama_nano": dict(
        vocab_size=256, max_length=256, width=192, depth=6, heads=6, kv_heads=2, mlp_dim=512, tie_word_embeddings=True
    ),
}

SOURCES = {
    "llama2_7b": "hf-hub:meta-llama/Llama-2-7b-hf",
    "llama2_13b": "hf-hub:meta-llama/Llama-2-13b-hf",
    "llama2_70b": "hf-hub:meta-llama/Llama-2-70b-hf",
    "llama3_8b": "hf-hub:meta-llama/Meta-Llama-3-8B",
    "llama31_8b": "hf-hub:meta-llama/Llama-3.1-8B",
    "llama32_1b": "hf-hub:meta-llama/Llama-3.2-1B",
    "llama32_3b": "hf-hub:meta-llama/Llama-3.2-3B",
    "tinyllama_1b": "hf-hub:TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "mistral_7b": "hf-hub:mistralai/Mistral-7B-v0.1",
    "mistral_7b_v03": "hf-hub:mistralai/Mistral-7B-v0.3",
    "qwen2_0_5b": "hf-hub:Qwen/Qwen2-0.5B",
    "qwen2_1_5b": "hf-hub:Qwen/Qwen2-1.5B",
    "qwen2_7b": "hf-hub:Qwen/Qwen2-7B",
    "qwen3_0_6b": "hf-hub:Qwen/Qwen3-0.6B",
    "qwen3_1_7b": "hf-hub:Qwen/Qwen3-1.7B",
    "qwen3_8b": "hf-hub:Qwen/Qwen3-8B",
}

FAMILY = Family("llama", Llama, LlamaConfig, "text", VARIANTS, SOURCES, {"transformers": MAPPINGS})
