"""The Transformer (Vaswani et al. 2017): an encoder-decoder with sinusoidal positions and norms after each branch.

https://arxiv.org/abs/1706.03762
"""

from dataclasses import dataclass
from typing import Any, Literal

from zoo.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig, Side
from zoo.models.family import Family
from zoo.nn.frontends.text import TextEmbedding


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(EncoderDecoderConfig):
    """Config of the Transformer; see EncoderDecoderConfig.

    order: of the norms, "post" as in the paper, or "pre". final_norm: whether a norm follows the last layer of each
    side, as in `torch.nn.Transformer`; None: with order="pre". max_length: of the texts; the positions are computed, so
    a model may be loaded with another one. dropout: also of the embeddings.
    """

    vocab_size: int = 37000
    max_length: int = 1024
    width: int = 512
    depth: int = 6
    heads: int = 8
    act: str = "relu"
    dropout: float = 0.1
    order: Literal["pre", "post"] = "post"
    final_norm: bool | None = None
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] | None = 2
    decoder_start_token_id: int | None = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 2:
            raise ValueError(f"width={self.width}: sinusoidal positions need an even width")


class Transformer(EncoderDecoder):
    """The Transformer; see EncoderDecoder. Both sides and the output layer share their word embeddings, which are
    multiplied by sqrt(width) where they are read."""

    def make_side(self, name: str) -> Side:
        c = self.config
        tokens = TextEmbedding(
            c.vocab_size, c.width, max_length=c.max_length, sinusoids="interleaved", dropout=c.dropout,
            scale=c.width**0.5,
        )  # fmt: skip
        return Side(tokens, self.make_blocks(name, final_norm=c.final_norm))


VARIANTS: dict[str, dict[str, Any]] = {
    "transformer_nano": dict(vocab_size=256, max_length=128, width=128, depth=2, heads=4, dropout=0.0),
    "transformer_small": dict(vocab_size=8000, max_length=512, width=256, depth=3, heads=4),
    "transformer_small_prenorm": dict(
        vocab_size=8000, max_length=512, width=256, depth=3, heads=4, mlp_dim=512, order="pre"
    ),
    "transformer_base": {},
    "transformer_big": dict(width=1024, heads=16, dropout=0.3),
}

FAMILY = Family("transformer", Transformer, TransformerConfig, "text", VARIANTS)
