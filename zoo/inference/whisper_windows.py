"""Whisper on recordings of any length: windows of 30 s that begin where the last timestamp of the one before stands.

As `transcribe` of OpenAI's code (https://github.com/openai/whisper), for several recordings at a time. The spectrogram
of a whole recording is kept, about 115 MB an hour with 80 bins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.inference.subtitles import TimedText
from zoo.inference.transcript import Segment, Transcript
from zoo.inference.voice_activity import silent_spans
from zoo.inference.whisper_decoding import DecodedWindow, WhisperOptions, WindowDecoder
from zoo.inference.word_times import word_times
from zoo.models.whisper.generation import GenerationSettings
from zoo.models.whisper.model import Whisper
from zoo.preprocessing import audio_io
from zoo.preprocessing.audio import name_of
from zoo.preprocessing.audio_io import AudioError
from zoo.utils.progress import progress

DELAY = 2.0  # seconds after which a progress bar appears
PROMPT_TEMPERATURE = 0.5  # a text that needed a higher one is not read by the next window


@dataclass
class Recording:
    """A recording that is being transcribed. features: [bins, T]. seek: the frame at which the next window begins.

    silences: frames that are skipped. previous: tokens that the next window may read.
    """

    index: int
    name: str
    features: Tensor
    silences: list[tuple[int, int]]
    language: int | None = None
    seek: int = 0
    previous: list[int] = field(default_factory=list)
    raw_texts: list[str] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    words: list[TimedText] = field(default_factory=list)

    @property
    def frames(self) -> int:
        return self.features.shape[1]

    def skip_silence(self) -> None:
        for start, stop in self.silences:
            if start <= self.seek < stop:
                self.seek = stop

    def window(self, longest: int) -> int:
        """The number of frames of the next window, which does not end in a silence."""
        end = min(self.seek + longest, self.frames)
        return next((start for start, stop in self.silences if self.seek < start < end <= stop), end) - self.seek


class WhisperTranscriber:
    """Transcribes recordings, `options.batch_size` at a time. words: whether their times are computed, too."""

    def __init__(self, model: Whisper, options: WhisperOptions, *, words: bool = True, num_beams: int = 1) -> None:
        if model.head is None:
            raise ValueError("zoo.transcribe expects Whisper with head='lm', but the model has head=None")
        self.model, self.options, self.words = model, options, words
        self.processor = model.preprocess
        self.settings = settings = GenerationSettings.of(model)
        _ = model.preprocess.text_processor  # raises ValueError for a model without tokenizer
        if options.condition_on_previous_text and settings.previous is None:
            raise ValueError("condition_on_previous_text=True: the model has no token <|startofprev|>")
        named = settings.languages_of(options.language, 1)
        self.language = settings.language_id(named[0]) if named else None
        self.codes = {token: code for code, token in settings.languages.items()}
        if options.task is not None:
            settings.task_id(options.task)
        self.decoder = WindowDecoder(model, settings, options, num_beams)

    def __call__(self, clips: Sequence[Any], first: int = 0) -> Iterator[tuple[int, Transcript | AudioError]]:
        """(index, transcript) of each clip as it is finished, or the error of one that cannot be read.

        first: index of the first clip.
        """
        seconds = [seconds_of(clip) for clip in clips]
        total = None if None in seconds else round(sum(second or 0 for second in seconds))
        waiting = iter(enumerate(clips, first))
        active: list[Recording] = []
        with progress("transcribing, seconds", total, delay=DELAY) as advance:
            done = 0.0
            while True:
                while len(active) < self.options.batch_size and (item := next(waiting, None)):
                    try:
                        active.append(self.open(*item))
                    except AudioError as error:
                        yield item[0], error
                for recording in [one for one in active if one.seek >= one.frames]:
                    active.remove(recording)
                    yield recording.index, self.transcript(recording)
                if not active:
                    return
                before = sum(one.seek for one in active)
                self.step(active)
                read = done + (sum(one.seek for one in active) - before) * self.processor.time_step / 2
                advance(round(read) - round(done))
                done = read

    def open(self, index: int, clip: Any) -> Recording:
        """Read a clip. Raises AudioError."""
        features = self.processor.long_features(clip, index=index)
        step = self.processor.time_step / 2
        silences = silent_spans(features, step) if self.options.skip_silence else []
        recording = Recording(index, name_of(clip, index), features, silences, self.language)
        recording.skip_silence()
        return recording

    def step(self, active: Sequence[Recording]) -> None:
        """Transcribe the next window of each recording."""
        longest = self.processor.frames
        sizes = [one.window(longest) for one in active]
        windows = [
            F.pad(one.features[:, one.seek : one.seek + size], (0, longest - size)) for one, size in zip(active, sizes)
        ]
        memory = self.model.states(torch.stack(windows).to(self.model.device, self.model.dtype))
        self.detect_languages(active, memory)
        rows = sorted(range(len(active)), key=lambda row: len(self.prefix(active[row])))
        for _, group in groupby(rows, key=lambda row: len(self.prefix(active[row]))):
            some = list(group)
            prefix = torch.tensor([self.prefix(active[row]) for row in some])
            seed = self.options.seed + sum(active[row].seek for row in some)
            for row, decoded in zip(some, self.decoder.decode(memory[some], prefix, seed)):
                self.take(active[row], decoded, sizes[row], memory[row : row + 1])

    def detect_languages(self, active: Sequence[Recording], memory: Tensor) -> None:
        """Set the language of recordings whose first window this is."""
        new = [row for row, one in enumerate(active) if one.language is None and self.settings.languages]
        for row, token in zip(new, self.model.detect_language(memory=memory[new]).tolist() if new else ()):
            active[row].language = token

    def prefix(self, recording: Recording, timestamps: bool = True) -> list[int]:
        """The first tokens of the decoder for the next window."""
        language = None if recording.language is None else torch.tensor([recording.language])
        written = timestamps and self.decoder.timestamps
        start = self.settings.prefix(language, self.options.task, written, 1)[0].tolist()
        if not timestamps or not recording.previous or self.settings.previous is None:
            return list(start)
        return [self.settings.previous, *recording.previous[-(self.model.config.max_length // 2 - 1) :], *start]

    def take(self, recording: Recording, decoded: DecodedWindow, size: int, memory: Tensor) -> None:
        """Add the segments of a window of `size` frames, and go to the next one."""
        start, step = recording.seek, self.processor.time_step
        recording.seek += size
        if decoded.is_silent(self.options):
            recording.skip_silence()
            return
        zero = None if self.settings.no_timestamps is None else self.settings.no_timestamps + 1
        parts, position = split_at_timestamps(decoded.tokens, zero, size // 2)
        if position:
            recording.seek = start + 2 * position
        offset, kept = start * step / 2, []
        for first, last, tokens in parts:
            raw = self.processor.decode(tokens)
            if first == last or not raw.strip():
                continue
            recording.segments.append(
                Segment(offset + first * step, offset + last * step, raw.strip(), tuple(tokens), decoded.temperature,
                        decoded.avg_logprob, decoded.compression_ratio, decoded.no_speech_prob)
            )  # fmt: skip
            recording.raw_texts.append(raw)
            kept += tokens
        if self.words:
            self.add_words(recording, kept, memory, offset, max(1, size // 2))
        if self.options.condition_on_previous_text:
            recording.previous = [] if decoded.temperature > PROMPT_TEMPERATURE else recording.previous + kept
        recording.skip_silence()

    def add_words(
        self, recording: Recording, tokens: Sequence[int], memory: Tensor, offset: float, positions: int
    ) -> None:
        """The words of the segments of one window, which begins `offset` seconds after the recording."""
        special, prefix = self.processor.special_ids, self.prefix(recording, timestamps=False)
        ids = [token for token in tokens if token not in special][: self.model.config.max_length - len(prefix) - 1]
        found = word_times(self.model, memory, prefix, ids, heads=self.settings.alignment_heads, positions=positions,
                           language=self.code(recording))  # fmt: skip
        recording.words += [word._replace(start=word.start + offset, end=word.end + offset) for word in found]

    def transcript(self, recording: Recording) -> Transcript:
        return Transcript(
            recording.name, "".join(recording.raw_texts).strip(), tuple(recording.words),
            segments=tuple(recording.segments), language=self.code(recording),
        )  # fmt: skip

    def code(self, recording: Recording) -> str | None:
        """The code of the language of a recording; None for a model of one language."""
        return None if recording.language is None else self.codes[recording.language]


def split_at_timestamps(
    tokens: Sequence[int], zero: int | None, size: int
) -> tuple[list[tuple[int, int, list[int]]], int | None]:
    """([(start, end, tokens)] of the segments of a window, the position at which the next window begins).

    A segment begins and ends with a timestamp; positions are in steps of a timestamp. What follows the last pair of
    timestamps is cut off by the end of the window, so the next window begins there. None: it begins behind this one,
    because the last timestamp stands alone, which says that nobody speaks behind it, or because there is no pair.

    Args:
        tokens: Of the window, without the end token.
        zero: The id of the timestamp 0.00; None for a model without timestamps.
        size: The length of the window.
    """
    is_time = [zero is not None and token >= zero for token in tokens]
    pairs = [i for i in range(1, len(tokens)) if is_time[i - 1] and is_time[i]]
    zero = zero or 0
    if not pairs:
        times = [token - zero for token, time in zip(tokens, is_time) if time]
        return [(0, times[-1] if times and times[-1] else size, list(tokens))], None
    alone = is_time[-2:] == [False, True]
    cuts = [0, *pairs, *([len(tokens)] if alone else [])]
    parts = [(tokens[a] - zero, tokens[b - 1] - zero, list(tokens[a:b])) for a, b in pairwise(cuts)]
    return parts, None if alone else parts[-1][1]


def seconds_of(clip: Any) -> float | None:
    """The length of a clip in seconds, for a progress bar; None if it is not known."""
    if not isinstance(clip, str | Path | bytes):
        return None
    try:
        info = audio_io.info(clip)
    except AudioError:  # reported when it is opened
        return 0.0
    return info.frames / info.sampling_rate
