"""Whisper (Radford et al. 2022): speech recognition and translation, an encoder-decoder of log-mel spectrograms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig, GenerationStart, Side
from zoo.models.eval_mode import eval_mode
from zoo.models.family import Family
from zoo.models.tracing import trace_error
from zoo.models.whisper.generation import GenerationSettings, Languages
from zoo.models.whisper.mapping import OPENAI, TRANSFORMERS
from zoo.nn.frontends.conv_spectrogram import ConvSpectrogramEmbedding
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.kv_cache import EncoderDecoderState
from zoo.nn.stack import Stack
from zoo.preprocessing.whisper import WhisperProcessor


@dataclass(frozen=True, kw_only=True)
class WhisperConfig(EncoderDecoderConfig):
    """Config of Whisper; see EncoderDecoderConfig.

    decoder_depth=0 with head=None: the encoder alone, as a tower of `zoo.bridge`.
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
        if self.frames < 2 or self.frames % 2:
            raise ValueError(f"frames={self.frames}: expected an even number of frames, two for each token")


class Whisper(EncoderDecoder):
    """forward(input_features [B, F, T], decoder_input_ids [B, N], decoder_attention_mask [B, N]) -> logits [B, N, V].

    The spectrograms are padded with silence (`model.preprocess`), which is content: the encoder takes no mask. Keys of
    the attention have no bias.
    """

    inputs: tuple[str, ...] = ("input_features", "decoder_input_ids", "decoder_attention_mask")
    generation_options = ("input_features", "memory", "language", "task", "return_timestamps")

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        if self.decoder is None:
            self.inputs = ("input_features",)

    @property
    def blocks(self) -> Stack:
        """The blocks of the encoder alone. Raises AttributeError for a model with a decoder."""
        if self.decoder is not None:
            raise AttributeError("a Whisper with a decoder has two stacks: encoder.blocks and decoder.blocks")
        return self.encoder.blocks

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
        if self.decoder is None:
            if decoder_input_ids is not None or decoder_attention_mask is not None:
                raise self.input_error({"decoder_input_ids": decoder_input_ids})
            return memory
        x = self.run_decoder(decoder_input_ids, decoder_attention_mask, memory, None)
        return x if self.head is None else self.head(x)

    def generation_start(
        self,
        batch: Mapping[str, Any],
        decoder_input_ids: Tensor | None = None,
        *,
        input_features: Tensor | None = None,
        memory: Tensor | None = None,
        language: Languages = None,
        task: str | None = None,
        return_timestamps: bool | None = None,
        **options: Any,
    ) -> tuple[dict[str, Any], GenerationStart]:
        """What `zoo.generate` begins with: (the inputs of `encode`, the first tokens and the rules of the decoder).

        language: of all clips or one each, as a code or a name; None is that of generation_config.json, or detected.
        task: "transcribe" or "translate" (to English). return_timestamps: write when each part begins and ends; False
        by default. decoder_input_ids: the first tokens instead of these three. memory: the encoder's states [B, N, D]
        (`states`) instead of input_features. Raises ValueError for a language or a task that the model lacks.
        """
        given = input_features if memory is None else memory
        if options or given is None or any(value is not None for value in batch.values()):
            raise self.start_error(batch, options)
        settings = GenerationSettings.of(self)
        timestamps = settings.return_timestamps if return_timestamps is None else return_timestamps
        encoded: dict[str, Any] = {"input_features" if memory is None else "memory": given.to(self.device)}
        if decoder_input_ids is None:
            ids = None
            if languages := settings.languages_of(language, len(given)):
                ids = torch.tensor([settings.language_id(each) for each in languages])
            elif settings.languages:
                encoded = {"memory": self.states(encoded["input_features"]) if memory is None else encoded["memory"]}
                ids = self.detect_language(**encoded)
            decoder_input_ids = settings.prefix(ids, task, timestamps, len(given))
        elif language is not None or task is not None:
            raise ValueError("decoder_input_ids are the first tokens of the decoder: omit language= and task=")
        c = self.config
        end = c.eos_token_id[0] if isinstance(c.eos_token_id, tuple) else c.eos_token_id or 0
        processors = settings.processors(decoder_input_ids.shape[1], timestamps, c.vocab_size, end)
        return encoded, GenerationStart(decoder_input_ids, processors)

    def start_error(self, batch: Mapping[str, Any], options: Mapping[str, Any]) -> Exception:
        """The error for what `zoo.generate` was given beside input_features=, or without it."""
        known = "input_features (or memory), decoder_input_ids, language, task, return_timestamps"
        if options:
            return TypeError(f"generate: Whisper takes {known}; it has no option {next(iter(options))!r}")
        given = next((name for name, value in batch.items() if value is not None), None)
        reason = "'input_features' is missing" if given is None else f"it does not use {given!r}"
        return ValueError(f"Whisper takes {known}; {reason}: zoo.generate(model, **model.preprocess(audio))")

    def states(self, input_features: Tensor) -> Tensor:
        """`encode` for inference."""
        with eval_mode(self), torch.inference_mode():
            states: Tensor = self.encode(input_features)
        return states

    def detect_language(self, input_features: Tensor | None = None, *, memory: Tensor | None = None) -> Tensor:
        """The most probable language of each clip, as the ids of its tokens [B]. memory: the encoder's states
        [B, N, D], instead of input_features. Raises ValueError for a model of one language."""
        settings = GenerationSettings.of(self)
        if not settings.languages or settings.start is None:
            raise ValueError("the model has no tokens of languages, so none can be detected")
        if memory is None:
            if input_features is None:
                raise self.input_error({})
            memory = self.states(input_features)
        with eval_mode(self), torch.inference_mode():
            start = torch.full((len(memory), 1), settings.start, device=memory.device)
            logits = self.decode(start, self.new_state(memory, capacity=1))
        return settings.most_probable_language(logits)

    def start_decoding(self, batch: Mapping[str, Any], capacity: int) -> EncoderDecoderState:
        """See `EncoderDecoder.start_decoding`; the encoder's states may be in the batch, as "memory"."""
        memory = batch["memory"] if "memory" in batch else self.encode(**batch)
        return self.new_state(memory, capacity=capacity)


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
