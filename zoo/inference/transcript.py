"""`Transcript`: the text of a recording with times, and its files."""

import json
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from zoo.inference.subtitles import Cue, SubtitleLimits, TimedText, cues, divided, to_srt, to_vtt
from zoo.utils.errors import check_choice
from zoo.utils.files import write_atomic

NO_SPACES = ("zh", "ja", "th", "lo", "my", "yue")  # languages whose words are written without spaces
REPETITIVE = 2.4  # compression ratio from which a text is taken for a loop


class Segment(NamedTuple):
    """A part of the text as Whisper writes it: start and end in seconds, text, and how its window was decoded.

    tokens: ids of the text and its timestamps. temperature: 0 if the most probable tokens were taken. avg_logprob: mean
    log-probability of the tokens. compression_ratio: bytes of the text by those that zlib makes of it; above 2.4 the
    text repeats itself. no_speech_prob: of the token that says that nobody speaks; None if it was not computed.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float | None


@dataclass(frozen=True)
class Transcript:
    """The text of a recording. name: the file. words, characters: with their times, if they were requested.

    segments, language: of Whisper, the parts that it has written, and the code of the language.
    """

    name: str
    text: str
    words: tuple[TimedText, ...] = ()
    characters: tuple[TimedText, ...] = ()
    segments: tuple[Segment, ...] = ()
    language: str | None = None

    @property
    def repetitive(self) -> tuple[Segment, ...]:
        """The segments whose text repeats itself at every temperature, so that it is probably wrong."""
        return tuple(segment for segment in self.segments if segment.compression_ratio > REPETITIVE)

    def save(self, path: str | Path, limits: SubtitleLimits | None = None) -> None:
        """Write a `.srt`, `.vtt`, `.txt` or `.json` file. limits: of subtitles; None for the usual ones.

        Raises ValueError for another suffix, and as `subtitles` does.
        """
        suffix = Path(path).suffix.lower()
        writers: dict[str, Callable[[], str]] = {
            ".srt": lambda: to_srt(self.subtitles(limits)),
            ".vtt": lambda: to_vtt(self.subtitles(limits)),
            ".txt": lambda: self.text + "\n",
            ".json": lambda: json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n",
        }
        check_choice("the suffix of the file", suffix, writers)
        write_atomic(path, writers[suffix]())

    def subtitles(self, limits: SubtitleLimits | None = None) -> list[Cue]:
        """The words in subtitles. A word that is longer than a subtitle, as in languages without spaces, is divided.

        Without times of words, each segment of Whisper is a subtitle, of whatever length. Raises ValueError without
        either, and without times of the characters of such a word.
        """
        limits = limits or SubtitleLimits()
        if self.text and not self.words:
            if not self.segments:
                raise ValueError("subtitles need the times of words: zoo.transcribe(..., timestamps='word')")
            return [Cue(s.start, s.end, tuple(textwrap.wrap(s.text, limits.line_length))) for s in self.segments]
        longest = limits.lines * limits.line_length
        words, characters = self.words, self.characters
        if self.language in NO_SPACES:
            words, characters = self._joined(limits.pause), self.words
        if not characters and (long := next((word for word in words if len(word.text) > longest), None)):
            raise ValueError(
                f"a word of {len(long.text)} characters is longer than a subtitle ({long.text[:20]} ...): to divide "
                f"it, its characters need times, too: zoo.transcribe(..., timestamps='char')"
            )
        parts: list[TimedText] = []
        for word in words:
            too_long = len(word.text) > longest or word.end - word.start > limits.max_duration
            parts += divided(word, characters, limits) if too_long and characters else [word]
        return cues(parts, limits)

    def _joined(self, pause: float) -> tuple[TimedText, ...]:
        """Words in a row without a pause as one, for languages that write them without spaces."""
        found: list[TimedText] = []
        for word in self.words:
            if found and word.start - found[-1].end < pause:
                found[-1] = TimedText(found[-1].start, word.end, found[-1].text + word.text, word.probability)
            else:
                found.append(word)
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        parts = {name: [one._asdict() for one in getattr(self, name)] for name in ("words", "characters", "segments")}
        return asdict(self) | parts
