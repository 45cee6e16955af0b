"""Whisper (Radford et al. 2022): speech recognition and translation, an encoder-decoder of log-mel spectrograms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig, Side
from zoo.models.family import Family
from zoo.models.tracing import trace_error
from zoo.models.whisper.mapping import OPENAI, TRANSFORMERS
from zoo.nn.frontends.conv_spectrogram import ConvSpectrogramEmbedding
from zoo.nn.frontends.text import TextEmbedding
from zoo.preprocessing.whisper import WhisperProcessor


@dataclass(frozen=True, kw_only=True)
class WhisperConfig(EncoderDecoderConfig):
    """Config of Whisper; see EncoderDecoderConfig.

    mel_bins, frames: size of the spectrograms, two frames a token of the encoder. max_length: of the texts, in tokens.
    """

    vocab_size: int = 51865
    max_length: int = 448
    mel_bins: int = 80
    frames: int = 3000
    width: int = 384
    depth: int = 4
    heads: int = 6
    bos_token_id: int | None = 50257
    eos_token_id: int | tuple[int, ...] | None = 50257
    pad_token_id: int | None = 50257
    decoder_start_token_id: int | None = 50258

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder_depth == 0:
            raise ValueError("decoder_depth=0: Whisper has a decoder; model.encode(...) gives the encoder's states")
        if self.frames < 2 or self.frames % 2:
            raise ValueError(f"frames={self.frames}: expected an even number of frames, two for each token")


class Whisper(EncoderDecoder):
    """forward(input_features [B, F, T], decoder_input_ids [B, N], decoder_attention_mask [B, N]) -> logits [B, N, V].

    The spectrograms are padded with silence (`model.preprocess`), which is content: the encoder takes no mask. Keys of
    the attention have no bias.
    """

    inputs = ("input_features", "decoder_input_ids", "decoder_attention_mask")

    def make_side(self, name: str) -> Side:
        c = self.config
        tokens: nn.Module
        if name == "encoder":
            tokens = ConvSpectrogramEmbedding(c.mel_bins, c.frames, c.width, dropout=c.dropout)
        else:
            tokens = TextEmbedding(c.vocab_size, c.width, max_length=c.max_length, dropout=c.dropout)
        return Side(tokens, self.make_blocks(name, k_bias=False))

    def share_embeddings(self) -> None:
        """Nothing: only the decoder reads tokens of a vocabulary."""

    def default_preprocess(self) -> WhisperProcessor:
        return WhisperProcessor(num_mel_bins=self.config.mel_bins, frames=self.config.frames)

    def encode(  # type: ignore[override]
        self,
        input_features: Tensor,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> Any:
        """The encoder's states [B, T / 2, D] after the final norm; see `EncoderDecoder.encode`."""
        x = self.encoder.tokens(input_features)
        positions = torch.arange(x.shape[1], device=x.device)
        return self.encoder.blocks(x, self.encoder_context(positions), layers=layers)

    def forward(  # type: ignore[override]
        self,
        input_features: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        **unknown: Any,
    ) -> Any:
        if type(unknown) is not dict:  # torch.fx
            raise trace_error(self)
        if unknown or input_features is None:
            input_features = self.check_inputs(unknown, input_features)
        memory = self.encode(input_features)
        x = self.run_decoder(decoder_input_ids, decoder_attention_mask, memory, None)
        return x if self.head is None else self.head(x)


ENGLISH: dict[str, Any] = dict(
    vocab_size=51864, bos_token_id=50256, eos_token_id=50256, pad_token_id=50256, decoder_start_token_id=50257
)
BASE: dict[str, Any] = dict(width=512, depth=6, heads=8)
SMALL: dict[str, Any] = dict(width=768, depth=12, heads=12)
MEDIUM: dict[str, Any] = dict(width=1024, depth=24, heads=16)
LARGE: dict[str, Any] = dict(width=1280, depth=32, heads=20)
LARGE_V3 = LARGE | dict(mel_bins=128, vocab_size=51866)

VARIANTS: dict[str, dict[str, Any]] = {
    "whisper_nano": dict(
        vocab_size=512, max_length=64, frames=400, width=128, depth=2, heads=4,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, decoder_start_token_id=1,
    ),
    "whisper_tiny": {},
    "whisper_tiny_en": ENGLISH,
    "whisper_base": BASE,
    "whisper_base_en": BASE | ENGLISH,
    "whisper_small": SMALL,
    "whisper_small_en": SMALL | ENGLISH,
    "whisper_medium": MEDIUM,
    "whisper_medium_en": MEDIUM | ENGLISH,
    "whisper_large": LARGE,
    "whisper_large_v2": LARGE,
    "whisper_large_v3": LARGE_V3,
    "whisper_large_v3_turbo": LARGE_V3 | dict(decoder_depth=4),
}  # fmt: skip

SOURCES = {
    name: f"hf-hub:openai/{name.replace('_en', '.en').replace('_', '-')}" for name in VARIANTS if name != "whisper_nano"
}

FAMILY = Family(
    "whisper", Whisper, WhisperConfig, "audio", VARIANTS, SOURCES, {"transformers": TRANSFORMERS, "openai": OPENAI}
)
