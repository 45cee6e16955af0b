"""BART (Lewis et al. 2020) and mBART (Liu et al. 2020): encoder-decoders with learned positions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.models.bart.mapping import BART, MBART
from zoo.models.encoder_decoder import ENCODER_INPUTS, EncoderDecoder, EncoderDecoderConfig, GenerationStart, Side
from zoo.models.family import Family
from zoo.nn.block_config import BlockConfig
from zoo.nn.frontends.text import TextEmbedding, count_positions
from zoo.nn.heads import LMHead, TextClassificationHead
from zoo.nn.lengths import AnyLengths
from zoo.preprocessing.mbart import is_language, language_id, with_language


@dataclass(frozen=True, kw_only=True)
class BartConfig(EncoderDecoderConfig):
    """Config of BART; see EncoderDecoderConfig.

    order: of the norms, "post" for BART and "pre" with a final norm for mBART. scale_embedding: token embeddings are
    multiplied by sqrt(width). pool: a classifier reads the decoder's state at the last end token. forced_bos_token_id,
    forced_eos_token_id: what `zoo.generate` writes first, and last where a text reaches max_new_tokens.
    """

    vocab_size: int = 50265
    max_length: int = 1024
    width: int = 768
    depth: int = 6
    heads: int = 12
    dropout: float = 0.1
    order: Literal["pre", "post"] = "post"
    scale_embedding: bool = False
    pool: Any = "eos"
    bos_token_id: int | None = 0
    pad_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] | None = 2
    decoder_start_token_id: int | None = 2
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool != "eos":
            raise ValueError(f"pool={self.pool!r}: BART classifies by the state at the last end token, pool='eos'")
        if self.head == "classify" and None in (self.eos_token_id, self.decoder_start_token_id):
            raise ValueError("head='classify' needs eos_token_id and decoder_start_token_id: set them")

    def allow_heads(self, *heads: str | None) -> None:
        super().allow_heads(*heads, "classify")


class Bart(EncoderDecoder):
    """BART; see EncoderDecoder. Its position table begins with two rows that are not used.

    head="classify": forward(input_ids, attention_mask) -> class scores [B, C]; the decoder reads the same text.
    """

    generation_options = ("src_lang", "tgt_lang")

    def make_side(self, name: str) -> Side:
        c = self.config
        tokens = TextEmbedding(
            c.vocab_size, c.width, max_length=c.max_length, position_offset=2, norm=BlockConfig.of(c).make_norm(),
            dropout=c.dropout, scale=c.width**0.5 if c.scale_embedding else 1.0,
        )  # fmt: skip
        return Side(tokens, self.make_blocks(name))

    def make_head(self) -> nn.Module | None:
        c = self.config
        # a classifier makes the decoder's inputs itself
        self.inputs = ENCODER_INPUTS if c.head == "classify" else type(self).inputs
        if c.head is None:
            return None
        if c.head == "classify":
            return TextClassificationHead("cls", c.width, c.num_classes, dense="tanh")
        return LMHead(c.width, c.vocab_size, self.tokens.word if c.tie_word_embeddings else None, fixed_bias=True)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        lengths: AnyLengths | None = None,
        **unknown: Any,
    ) -> Any:
        if self.config.head != "classify" or type(unknown) is not dict:
            return super().forward(
                input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, lengths, **unknown
            )
        decoder = {"decoder_input_ids": decoder_input_ids, "decoder_attention_mask": decoder_attention_mask}
        unknown |= {name: value for name, value in decoder.items() if value is not None}
        if unknown or input_ids is None:
            input_ids = self.check_inputs(unknown, input_ids)
        attention_mask, lengths = self.source_mask(input_ids, attention_mask, lengths)
        index = self.last_end(input_ids, attention_mask)
        shifted = self.shift_right(input_ids, attention_mask)
        x = self.hidden_states(input_ids, attention_mask, shifted, attention_mask, lengths)
        assert self.head is not None
        return self.head(x[torch.arange(len(x), device=x.device), index][:, None])

    def source_tokenizer(self, tokenizer: Any, options: dict[str, Any]) -> Any:
        """See EncoderDecoder. src_lang: of mBART, the language of the texts; default: that of model.preprocess."""
        if (code := options.pop("src_lang", None)) is None:
            return tokenizer
        if tokenizer is not None:
            raise ValueError(f"src_lang={code!r} is for model.preprocess: set the language of your tokenizer= itself")
        language_id(self.preprocess, code, "src_lang")
        return with_language(self.preprocess, code)

    def generation_start(
        self,
        batch: Mapping[str, Any],
        decoder_input_ids: Tensor | None = None,
        tgt_lang: str | None = None,
        **options: Any,
    ) -> tuple[dict[str, Any], GenerationStart]:
        """See EncoderDecoder. tgt_lang: of mBART, such as "ro_RO": the decoder begins with its code, after the start
        token where the config has one that is not itself the code of a language. Raises ValueError for a language that
        the tokenizer does not have.
        """
        check_language_options(options)
        if tgt_lang is not None and decoder_input_ids is None and batch["input_ids"] is not None:
            code, start = language_id(self.preprocess, tgt_lang, "tgt_lang"), self.config.decoder_start_token_id
            first = [code] if start is None or is_language(self.preprocess, start) else [start, code]
            if len(first) > 1 and self.config.forced_bos_token_id not in (None, code):
                raise ValueError(
                    f"tgt_lang={tgt_lang!r}: every text of this model begins with the token "
                    f"{self.config.forced_bos_token_id}, its forced_bos_token_id"
                )
            decoder_input_ids = torch.tensor([first] * len(batch["input_ids"]))
        return super().generation_start(batch, decoder_input_ids, **options)

    def last_end(self, input_ids: Tensor, keep: Tensor | None) -> Tensor:
        """The place [B] of the last end token of each row. Raises ValueError for a row on the CPU without one."""
        ends = self.config.eos_token_id
        is_end = torch.isin(input_ids, input_ids.new_tensor(ends))
        if keep is not None:
            is_end = is_end & keep.bool()
        if is_end.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(is_end.any(1).all()):
            row = int(is_end.any(1).long().argmin())
            raise ValueError(
                f"row {row} of input_ids has no end token {ends}, by whose state a text is classified: "
                "model.preprocess adds it"
            )
        return input_ids.shape[1] - 1 - is_end.flip(1).long().argmax(1)

    def shift_right(self, input_ids: Tensor, keep: Tensor | None) -> Tensor:
        """Each real token [B, N] replaced by the one before it, the first by the start token."""
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        if keep is None:
            previous = input_ids.roll(1, 1)
        else:
            real = (place * keep.bool()).cummax(1).values
            previous = input_ids.gather(1, real.roll(1, 1))
        positions = count_positions(keep, input_ids.shape[1], 0, input_ids.device)
        return previous.masked_fill(positions == 0, self.config.decoder_start_token_id)


def check_language_options(options: Mapping[str, Any]) -> None:
    """Raise for src_lang= beside tokens, and for other names of the options."""
    if options.get("src_lang") is not None:
        raise ValueError(
            f"src_lang={options['src_lang']!r} is for texts, and input_ids are tokens, which have the code of their "
            "language: zoo.preprocessing.mbart.with_language(model.preprocess, src_lang) gives such tokens"
        )
    for wrong, right in (("source_lang", "src_lang"), ("target_lang", "tgt_lang")):
        if wrong in options:
            raise TypeError(f"generate: Bart has no option {wrong!r}; it is called {right!r}, as in transformers")


LARGE = dict(width=1024, depth=12, heads=16)
MULTILINGUAL = LARGE | dict(
    vocab_size=250027, order="pre", scale_embedding=True, decoder_start_token_id=None
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
