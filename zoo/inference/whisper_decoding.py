"""The text of one window of audio with Whisper: greedy or beams, and again at higher temperatures where that fails.

As `transcribe` and `decode` of OpenAI's code (https://github.com/openai/whisper, Radford et al. 2022, section 4.5).
"""

import zlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.inference.generation.generate import end_ids, generate
from zoo.inference.transcript import REPETITIVE
from zoo.models.eval_mode import eval_mode
from zoo.models.whisper.generation import GenerationSettings
from zoo.models.whisper.model import Whisper
from zoo.utils.errors import is_number


@dataclass(frozen=True, kw_only=True)
class WhisperOptions:
    """How Whisper transcribes a recording.

    language: as a code or a name; None is that of generation_config.json, or detected in the first window of each
    recording. task: "transcribe", or "translate" to English; None is that of generation_config.json.
    temperature: tried one after the other until a text passes the two thresholds; 0 takes the most probable tokens.
    compression_ratio_threshold: a text that zlib makes smaller than by this factor repeats itself.
    logprob_threshold: a text with a lower mean log-probability of its tokens is taken for wrong.
    no_speech_threshold: a window is silent if <|nospeech|> is more probable and its text fails logprob_threshold.
    Each of the three is switched off with None.
    condition_on_previous_text: Whisper reads what it has written for the earlier audio. Names are then written alike,
    and a loop may go on over windows; it begins again behind a text that needed a temperature above 0.5.
    skip_silence: windows begin and end where the recording is not silent (`zoo.inference.voice_activity`).
    batch_size: recordings that are decoded together. seed: of the samples at temperatures above 0.
    """

    language: str | None = None
    task: Literal["transcribe", "translate"] | None = None
    temperature: float | tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    compression_ratio_threshold: float | None = REPETITIVE
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6
    condition_on_previous_text: bool = False
    skip_silence: bool = False
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperatures or not all(is_number(value) and value >= 0 for value in self.temperatures):
            raise ValueError(f"temperature={self.temperature!r}: expected a number of at least 0, or several")
        for name in ("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold"):
            value = getattr(self, name)
            if value is not None and not is_number(value):
                raise ValueError(f"{name}={value!r}: expected a finite number, or None for no threshold")
        if type(self.batch_size) is not int or self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size!r}: expected a whole number of at least 1")

    @property
    def temperatures(self) -> tuple[float, ...]:
        return tuple(self.temperature) if isinstance(self.temperature, list | tuple) else (self.temperature,)


@dataclass(frozen=True)
class DecodedWindow:
    """The tokens of a window without the end token, and the numbers that decide whether they are kept; see Segment."""

    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float | None = None

    def fails(self, options: WhisperOptions) -> bool:
        """Whether another temperature is tried: the text repeats itself, or is improbable and not silence."""
        repeats = _above(self.compression_ratio, options.compression_ratio_threshold)
        return (repeats or self.is_improbable(options)) and not self._says_silence(options)

    def is_silent(self, options: WhisperOptions) -> bool:
        """Whether nobody speaks. Without a logprob_threshold the probability of <|nospeech|> decides alone."""
        improbable = options.logprob_threshold is None or self.is_improbable(options)
        return improbable and _above(self.no_speech_prob, options.no_speech_threshold)

    def is_improbable(self, options: WhisperOptions) -> bool:
        return _above(options.logprob_threshold, self.avg_logprob)

    def _says_silence(self, options: WhisperOptions) -> bool:
        return self.is_improbable(options) and _above(self.no_speech_prob, options.no_speech_threshold)


def _above(value: float | None, threshold: float | None) -> bool:
    return value is not None and threshold is not None and value > threshold


@dataclass(frozen=True)
class WindowDecoder:
    """Decodes windows. num_beams: at temperature 0."""

    model: Whisper
    settings: GenerationSettings
    options: WhisperOptions
    num_beams: int = 1

    @property
    def timestamps(self) -> bool:
        """Whether the model writes timestamps."""
        return self.settings.no_timestamps is not None

    def decode(self, memory: Tensor, prefix: Tensor, seed: int) -> list[DecodedWindow]:
        """The texts of windows, each at the first temperature that passes, else the last one.

        memory: the encoder's states [B, N, D]. prefix: the first tokens of the decoder [B, T]. seed: of the samples.
        """
        no_speech = self.no_speech_probs(memory, prefix)
        found: list[DecodedWindow | None] = [None] * len(prefix)
        rows = list(range(len(prefix)))
        for step, temperature in enumerate(self.options.temperatures):
            made = self.decode_at(
                temperature, memory[rows], prefix[rows], [no_speech[row] for row in rows], seed + step
            )
            for row, window in zip(rows, made):
                found[row] = window
            rows = [row for row, window in zip(rows, made) if window.fails(self.options)]
            if not rows:
                break
        return [window for window in found if window is not None]

    def decode_at(
        self, temperature: float, memory: Tensor, prefix: Tensor, no_speech: list[float | None], seed: int
    ) -> list[DecodedWindow]:
        c, begin = self.model.config, prefix.shape[1]
        before = LogProbabilities()
        made = generate(
            self.model, memory=memory, decoder_input_ids=prefix, return_timestamps=self.timestamps,
            max_new_tokens=min(c.max_length // 2, c.max_length - begin), temperature=temperature, seed=seed,
            num_beams=1 if temperature else self.num_beams, output_scores=True,
            logits_processor=[before] if temperature else [],
        )  # fmt: skip
        new = made.sequences[:, begin:].cpu()
        log_probs = (before.of(made.sequences) if temperature else made.log_probs).cpu()
        ends = end_ids(self.model, "model")
        found = []
        for tokens, row, silent in zip(new.tolist(), log_probs, no_speech):
            count = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
            mean = float(row[: count + 1].sum()) / (count + 1)
            ratio = compression_ratio(self.model.preprocess.decode(tokens[:count]).strip())
            found.append(DecodedWindow(tokens[:count], temperature, mean, ratio, silent))
        return found

    def no_speech_probs(self, memory: Tensor, prefix: Tensor) -> list[float | None]:
        """The probability of <|nospeech|> behind the start token, for each window; None without a threshold."""
        if self.options.no_speech_threshold is None or self.settings.no_speech is None:
            return [None] * len(prefix)
        ids = prefix[:, : prefix[0].tolist().index(self.settings.start) + 1].to(memory.device)
        with eval_mode(self.model), torch.inference_mode():
            logits = self.model.decode(ids, self.model.new_state(memory, capacity=ids.shape[1]))
        probabilities: list[float | None] = logits.float().softmax(-1)[:, self.settings.no_speech].tolist()
        return probabilities


class LogProbabilities:
    """A logits processor that changes nothing: it keeps the log-probabilities of tokens before the temperature."""

    def __init__(self) -> None:
        self.last: Tensor | None = None
        self.found: list[Tensor] = []

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        self._take(ids)
        self.last = scores.log_softmax(-1)
        return scores

    def of(self, ids: Tensor) -> Tensor:
        """The log-probabilities [rows, new] of the new tokens in the finished ids [rows, T]."""
        self._take(ids)
        return torch.stack(self.found, 1)

    def _take(self, ids: Tensor) -> None:
        if self.last is not None:
            self.found.append(self.last.gather(1, ids[:, -1:])[:, 0])
            self.last = None


def compression_ratio(text: str) -> float:
    """Bytes of a text by those that zlib makes of it; 0 for an empty one."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))
