"""GPT-2 (Radford et al. 2019): a pre-norm causal decoder with learned positions and tied word embeddings."""

from dataclasses import dataclass
from typing import Any

from zoo.models.family import Family
from zoo.models.gpt2.mapping import TRANSFORMERS
from zoo.models.text import DecoderConfig, TextDecoder
from zoo.nn.block_config import BlockConfig
from zoo.nn.frontends.text import TextEmbedding


@dataclass(frozen=True, kw_only=True)
class GPT2Config(DecoderConfig):
    """Config of GPT-2; see DecoderConfig."""

    vocab_size: int = 50257
    max_length: int = 1024
    width: int = 768
    depth: int = 12
    heads: int = 12
    act: str = "gelu_tanh"
    dropout: float = 0.1
    attention_dropout: float = 0.1


class GPT2(TextDecoder):
    """forward(input_ids [B, N], attention_mask) -> logits of the next token [B, N, V]."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        c = config
        self.tokens = TextEmbedding(c.vocab_size, c.width, max_length=c.max_length, dropout=c.dropout)
        spec = BlockConfig.of(c, causal=True)
        self.blocks = spec.stack(c.depth)
        self.head = self.make_head()


PUBLISHED = dict(bos_token_id=50256, eos_token_id=50256)

VARIANTS: dict[str, dict[str, Any]] = {
    "gpt2": PUBLISHED,
    "gpt2_medium": PUBLISHED | dict(width=1024, depth=24, heads=16),
    "gpt2_large": PUBLISHED | dict(width=1280, depth=36, heads=20),
    "gpt2_xl": PUBLISHED | dict(width=1600, depth=48, heads=25),
    "gpt_nano": dict(vocab_size=256, max_length=128, width=192, depth=6, heads=6, dropout=0.0, attention_dropout=0.0),
}

SOURCES = {
    "gpt2": "hf-hub:openai-community/gpt2",
    "gpt2_medium": "hf-hub:openai-community/gpt2-medium",
    "gpt2_large": "hf-hub:openai-community/gpt2-large",
    "gpt2_xl": "hf-hub:openai-community/gpt2-xl",
}

FAMILY = Family("gpt2", GPT2, GPT2Config, "text", VARIANTS, SOURCES, {"transformers": TRANSFORMERS})
