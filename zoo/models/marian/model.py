"""Marian (Junczys-Dowmunt et al. 2018): the Transformer as trained for the translation models of OPUS-MT.

https://arxiv.org/abs/1804.00344, https://github.com/Helsinki-NLP/OPUS-MT
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from zoo.models.config import Config
from zoo.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig, GenerationStart, Side
from zoo.models.family import Family
from zoo.models.marian.mapping import MARIAN
from zoo.models.suppress_tokens import SuppressTokens
from zoo.nn.block import Order
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.heads import LMHead


@dataclass(frozen=True, kw_only=True)
class MarianConfig(EncoderDecoderConfig):
    """Config of Marian; see EncoderDecoderConfig.

    decoder_vocab_size: of a decoder with a vocabulary and word embeddings of its own; None: both sides share them.
    scale_embedding: token embeddings are multiplied by sqrt(width). pad_token_id: also the first token that the decoder
    reads; its embedding is not trained there. forced_eos_token_id: what `zoo.generate` writes last where a text reaches
    max_new_tokens.
    """

    order: ClassVar[Order] = "post"  # of the norms

    vocab_size: int = 58101
    decoder_vocab_size: int | None = None
    max_length: int = 512
    width: int = 512
    depth: int = 6
    heads: int = 8
    act: str = "silu"
    dropout: float = 0.1
    scale_embedding: bool = True
    bos_token_id: int | None = 0
    pad_token_id: int | None = 58100
    eos_token_id: int | tuple[int, ...] | None = 0
    decoder_start_token_id: int | None = 58100
    forced_eos_token_id: int | None = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 2:
            raise ValueError(f"width={self.width}: sinusoidal positions need an even width")
        rows, pad = min(self.vocab_size, self.output_size), self.pad_token_id
        if pad is not None and not 0 <= pad < rows:
            raise ValueError(f"pad_token_id={pad} is outside of the vocabulary of {rows} tokens: set it as well")

    @property
    def output_size(self) -> int:
        """The size of the decoder's vocabulary."""
        return self.decoder_vocab_size or self.vocab_size

    def part_of(self, name: str) -> Config:
        """The config of the side that takes an input: the decoder's has its vocabulary."""
        decoder = name.startswith("decoder_") and self.decoder_vocab_size is not None
        return self.replace(vocab_size=self.output_size) if decoder else self


class Marian(EncoderDecoder):
    """Marian; see EncoderDecoder."""

    def make_side(self, name: str) -> Side:
        c = self.config
        rows = c.vocab_size if name == "encoder" else c.output_size
        tokens = TextEmbedding(
            rows, c.width, max_length=c.max_length, sinusoids="halves", dropout=c.dropout,
            scale=c.width**0.5 if c.scale_embedding else 1.0, padding_idx=c.pad_token_id,
        )  # fmt: skip
        return Side(tokens, self.make_blocks(name))

    def share_embeddings(self) -> None:
        if self.config.decoder_vocab_size is None:
            super().share_embeddings()

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head is None:
            return None
        return LMHead(c.width, c.output_size, self.tokens.word if c.tie_word_embeddings else None, fixed_bias=True)

    @staticmethod
    def never_generated(config: Any) -> tuple[int, ...]:
        """See EncoderDecoder; padding, of which the scores say nothing."""
        return () if config.pad_token_id is None else (config.pad_token_id,)

    def generation_start(
        self, batch: Mapping[str, Any], decoder_input_ids: Tensor | None = None, **options: Any
    ) -> tuple[dict[str, Any], GenerationStart]:
        """See EncoderDecoder."""
        inputs, start = super().generation_start(batch, decoder_input_ids, **options)
        never = self.never_generated(self.config)
        return inputs, replace(start, processors=[*start.processors, *([SuppressTokens(never)] if never else [])])


def opus_mt(vocab_size: int) -> dict[str, Any]:
    """A variant with another vocabulary, whose last token is the padding."""
    return dict(vocab_size=vocab_size, pad_token_id=vocab_size - 1, decoder_start_token_id=vocab_size - 1)


SIZES: Mapping[str, int] = {
    "en_de": 58101, "de_en": 58101, "en_fr": 59514, "fr_en": 59514, "en_es": 65001, "es_en": 65001, "en_ru": 62518,
    "ru_en": 62518, "en_zh": 65001, "zh_en": 65001,
}  # fmt: skip

VARIANTS: dict[str, dict[str, Any]] = {
    "marian_nano": opus_mt(256)
    | dict(max_length=128, width=128, depth=2, heads=4, dropout=0.0, forced_eos_token_id=None),
    "marian_base": {},
    **{f"opus_mt_{pair}": opus_mt(size) for pair, size in SIZES.items()},
}

SOURCES = {f"opus_mt_{pair}": f"hf-hub:Helsinki-NLP/opus-mt-{pair.replace('_', '-')}" for pair in SIZES}

FAMILY = Family("marian", Marian, MarianConfig, "text", VARIANTS, SOURCES, {"transformers": MARIAN})
