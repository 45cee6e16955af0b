"""BART (Lewis et al. 2020) and mBART (Liu et al. 2020): encoder-decoders with learned positions."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from zoo.models.bart.mapping import BART, MBART
from zoo.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig, Side
from zoo.models.family import Family
from zoo.nn.block_config import BlockConfig
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.heads import LMHead


@dataclass(frozen=True, kw_only=True)
class BartConfig(EncoderDecoderConfig):
    """Config of BART; see EncoderDecoderConfig.

    order: of the norms, "post" for BART and "pre" with a final norm for mBART. scale_embedding: token embeddings are
    multiplied by sqrt(width). forced_bos_token_id, forced_eos_token_id: what `zoo.generate` writes first, and last
    where a text reaches max_new_tokens.
    """

    vocab_size: int = 50265
    max_length: int = 1024
    width: int = 768
    depth: int = 6
    heads: int = 12
    dropout: float = 0.1
    order: Literal["pre", "post"] = "post"
    scale_embedding: bool = False
    bos_token_id: int | None = 0
    pad_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] | None = 2
    decoder_start_token_id: int | None = 2
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = 2


class Bart(EncoderDecoder):
    """BART; see EncoderDecoder. Its position table begins with two rows that are not used."""

    def make_side(self, name: str) -> Side:
        c = self.config
        tokens = TextEmbedding(
            c.vocab_size, c.width, max_length=c.max_length, position_offset=2, norm=BlockConfig.of(c).make_norm(),
            dropout=c.dropout, scale=c.width**0.5 if c.scale_embedding else 1.0,
        )  # fmt: skip
        return Side(tokens, self.make_blocks(name))

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head is None:
            return None
        return LMHead(c.width, c.vocab_size, self.tokens.word if c.tie_word_embeddings else None, fixed_bias=True)


LARGE = dict(width=1024, depth=12, heads=16)
MULTILINGUAL = LARGE | dict(
    vocab_size=250027, order="pre", scale_embedding=True, act="relu", decoder_start_token_id=None
)  # fmt: skip

VARIANTS: dict[str, dict[str, Any]] = {
    "bart_nano": dict(
        vocab_size=256, max_length=128, width=128, depth=2, heads=4, dropout=0.0, forced_eos_token_id=None
    ),
    "bart_base": dict(mlp_dim=3072),
    "bart_large": LARGE,
    "bart_large_cnn": LARGE | dict(vocab_size=50264, forced_bos_token_id=0),
    "bart_large_xsum": LARGE | dict(vocab_size=50264),
    "mbart_large_cc25": MULTILINGUAL,
    "mbart_large_50": MULTILINGUAL | dict(vocab_size=250054, decoder_start_token_id=2),
}

SOURCES = {
    "bart_base": "hf-hub:facebook/bart-base",
    "bart_large": "hf-hub:facebook/bart-large",
    "bart_large_cnn": "hf-hub:facebook/bart-large-cnn",
    "bart_large_xsum": "hf-hub:facebook/bart-large-xsum",
    "mbart_large_cc25": "hf-hub:facebook/mbart-large-cc25",
    "mbart_large_50": "hf-hub:facebook/mbart-large-50",
}

FAMILY = Family("bart", Bart, BartConfig, "text", VARIANTS, SOURCES, {"transformers": (BART, MBART)})
