"""Texts that a model with an encoder writes, for `zoo.predict`: summaries, translations, the text of speech."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from zoo.inference.generation.generate import argument_names, check_counts, end_ids, generate
from zoo.inference.generation.sampling import Sampling
from zoo.inference.generation.stopping import decoder_of
from zoo.inference.generation.text_prompts import TextPrompts
from zoo.inference.probabilities import Prediction
from zoo.inference.transcript import Transcript
from zoo.inference.whisper_decoding import WhisperOptions
from zoo.inference.whisper_windows import WhisperTranscriber
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.models.whisper.model import Whisper
from zoo.preprocessing.audio_io import AudioError
from zoo.preprocessing.text import TextProcessor
from zoo.utils.errors import did_you_mean

MAX_NEW_TOKENS = 256
ROWS = 64  # texts in a batch: all are decoded until the longest one is finished
TOKENS = 8192  # of the sources in a batch
CLIPS = 8  # that are transcribed together
# Options of zoo.generate for other results than one text for each input.
NOT_HERE = (
    "cache", "decoder_input_ids", "draft", "num_return_sequences", "output_scores", "streamer", "tokenizer",
)  # fmt: skip


def writes_texts(model: Any) -> bool:
    """Whether it is an encoder-decoder that writes texts of texts, or of speech."""
    if not isinstance(model, EncoderDecoder) or model.inputs[0] not in ("input_ids", "input_features"):
        return False
    return bool(model.config.head == "lm" and model.decoder is not None)


def writer_of(model: Any, options: Mapping[str, Any] | None) -> "TextWriter | SpeechWriter | None":
    """What writes the texts of a model; None for a model that does not. options: see `zoo.predict`.

    Raises ValueError for options of a model that writes no texts, that the model does not have, or with values that are
    not valid.
    """
    if not writes_texts(model):
        if options:
            raise ValueError(
                f"generate_kwargs (--generate-kwargs, --source-prefix) is for models that write texts of texts or "
                f"speech, and the model has head={model.config.head!r}: omit it"
            )
        return None
    if isinstance(model, Whisper):
        return SpeechWriter(model, dict(options or {}))
    return TextWriter(model, dict(options or {}))


def check_options(options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise ValueError for an option that is not known."""
    for name in options:
        if name not in known:
            raise ValueError(
                f"generate_kwargs has no option {name!r}{did_you_mean(name, known)}; it has {', '.join(sorted(known))}"
            )


@dataclass
class TextWriter:
    """Writes a text for each source text. options: of `zoo.generate`, such as num_beams; max_new_tokens is 256, or as
    many as the positions of the decoder allow; source_prefix stands before each source text.

    processor: of the source texts, in the language of the options.
    """

    model: Any
    options: dict[str, Any]
    processor: TextProcessor = field(init=False)

    def __post_init__(self) -> None:
        own = tuple(self.model.generation_options)
        self.prefix = self.options.pop("source_prefix", "")
        if not isinstance(self.prefix, str):
            raise ValueError(f"source_prefix={self.prefix!r}: expected a text")
        known = (*argument_names(), *own, "source_prefix")
        check_options(self.options, [name for name in known if name not in NOT_HERE])
        names = inspect.signature(Sampling).parameters
        sampling = Sampling(**{name: self.options[name] for name in names if name in self.options})
        check_counts(sampling, self.options.get("num_beams", 1), 1, None, None)
        of_model = {name: self.options[name] for name in own if name in self.options}
        self.processor = self.model.source_tokenizer(None, of_model) or self.model.preprocess
        for name in own:
            if name not in of_model:  # the tokenizer has taken it
                self.options.pop(name, None)
        batch = {"input_ids": torch.zeros(1, 1, dtype=torch.long), "attention_mask": None}
        start = self.model.generation_start(batch, **of_model)[1].ids.shape[1]
        room = self.model.config.part_of("decoder_input_ids").max_length - start
        self.options.setdefault("max_new_tokens", max(1, min(MAX_NEW_TOKENS, room)))
        self.ends = end_ids(self.model, self.options.get("eos_token_id", "model"))
        self.decode = decoder_of(self.model)

    def source(self, text: Any) -> Any:
        """A text as the encoder reads it; an input that is none, or that is empty, as it is."""
        return f"{self.prefix}{text}" if isinstance(text, str) and text.strip() else text

    def __call__(self, sources: Sequence[Any]) -> tuple[list[Prediction], dict[int, int]]:
        """([(text, probability)] of each encoded source, {row: number of tokens} of the texts that are not finished).

        The probability is the geometric mean of those of the tokens.
        """
        batch = self.processor._pad(list(sources))
        ids, mask = batch["input_ids"], batch["attention_mask"]
        made = generate(self.model, ids, mask, output_scores=True, **self.options)
        new = made.log_probs.shape[1]
        tokens, log_probs = made.sequences[:, made.sequences.shape[1] - new :].cpu(), made.log_probs.cpu()
        pad = self.options.get("pad_token_id", self.model.config.pad_token_id)
        texts = TextPrompts(ids, mask, [""] * len(ids), False, is_source=True)
        found: Any = texts.continued(tokens, self.decode, self.ends, pad)
        counts = self._counts(tokens, pad)
        means = (log_probs.sum(1) / counts).exp().tolist()
        stops = self.options.get("stop", ())
        stops = (stops,) if isinstance(stops, str) else tuple(stops)
        unfinished = {
            row: new
            for row, (text, last) in enumerate(zip(found, tokens[:, -1].tolist()))
            if (self.ends or stops) and new == self.options["max_new_tokens"] and last not in (*self.ends, pad)
            and not any(stop in text for stop in stops)
        }  # fmt: skip
        return [[pair] for pair in zip(found, means)], unfinished

    def _counts(self, tokens: Tensor, pad: int | None) -> Tensor:
        """The number of tokens of each row [B, T], its end token included."""
        ended = torch.zeros_like(tokens, dtype=torch.bool)
        for end in self.ends:
            ended |= tokens == end
        behind = (ended.cumsum(1) - ended.long()) > 0
        if pad is not None and pad not in self.ends:
            behind |= tokens == pad
        return (~behind).sum(1).clamp(min=1)


@dataclass
class SpeechWriter:
    """Writes the text of recordings of any length with Whisper. options: `WhisperOptions`, and num_beams."""

    model: Any
    options: dict[str, Any]

    def __post_init__(self) -> None:
        known = [each.name for each in fields(WhisperOptions)]
        check_options(self.options, [*known, "num_beams"])
        own = {name: value for name, value in self.options.items() if name != "num_beams"}
        beams = self.options.get("num_beams", 1)
        check_counts(Sampling(), beams, 1, None, None)
        self.batch_size = own.setdefault("batch_size", CLIPS)
        self.transcriber = WhisperTranscriber(self.model, WhisperOptions(**own), words=False, num_beams=beams)

    def __call__(self, clips: Sequence[Any], first: int = 0) -> list[Prediction | AudioError]:
        """[(text, probability)] of each clip, or the error of one that cannot be read. first: index of the first clip.

        The probability is the geometric mean of those of the tokens; NaN if nobody speaks.
        """
        made = dict(self.transcriber(clips, first))
        return [_of_transcript(made[index]) for index in range(first, first + len(clips))]


def _of_transcript(found: Transcript | AudioError) -> Prediction | AudioError:
    if isinstance(found, AudioError):
        return found
    count = sum(len(segment.tokens) for segment in found.segments)
    total = sum(segment.avg_logprob * len(segment.tokens) for segment in found.segments)
    return [(found.text, math.exp(total / count) if count else math.nan)]
