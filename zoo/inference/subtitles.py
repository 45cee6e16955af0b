"""Subtitles of timed words, as SRT (SubRip) and WebVTT (https://www.w3.org/TR/webvtt1/) files.

The limits are the usual ones of broadcasters: two lines of 42 characters, at most 7 seconds, at least 1.
"""

import html
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class TimedText(NamedTuple):
    """A word or character of a recording: start and end in seconds, text, mean probability of its frames."""

    start: float
    end: float
    text: str
    probability: float


class Cue(NamedTuple):
    """A subtitle: start and end in seconds, and its lines."""

    start: float
    end: float
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SubtitleLimits:
    """What a subtitle may be.

    line_length: characters; a longer word has a line of its own. lines: of a subtitle. max_duration, min_duration:
    seconds; a shorter one stays until then, or until the next begins. pause: seconds of silence that end a subtitle.
    """

    line_length: int = 42
    lines: int = 2
    max_duration: float = 7.0
    min_duration: float = 1.0
    pause: float = 1.0

    def __post_init__(self) -> None:
        positive = min(self.line_length, self.lines, self.max_duration, self.pause) > 0
        if not positive or not 0 <= self.min_duration <= self.max_duration:
            raise ValueError(f"{self}: expected positive numbers, and min_duration at most as long as max_duration")


def cues(words: Sequence[TimedText], limits: SubtitleLimits | None = None) -> list[Cue]:
    """Group words into subtitles within the limits."""
    limits = limits or SubtitleLimits()
    groups: list[list[TimedText]] = []
    for word in words:
        if groups and _fits([*groups[-1], word], limits):
            groups[-1].append(word)
        else:
            groups.append([word])
    starts = [group[0].start for group in groups]
    found = []
    for group, start, following in zip(groups, starts, [*starts[1:], float("inf")]):
        end = max(group[-1].end, min(start + limits.min_duration, following))
        found.append(Cue(start, min(end, start + limits.max_duration), _lines(group, limits)))
    return found


def divided(word: TimedText, characters: Sequence[TimedText], limits: SubtitleLimits) -> list[TimedText]:
    """A word that no subtitle can hold, such as a text of a language without spaces, in parts of up to a line.

    characters: of all words, with their times.
    """
    parts: list[TimedText] = []
    for one in characters:
        if not word.start <= one.start < word.end:
            continue
        last = parts[-1] if parts else None
        if last and len(last.text + one.text) <= limits.line_length and one.end - last.start <= limits.max_duration:
            parts[-1] = TimedText(last.start, one.end, last.text + one.text, word.probability)
        else:
            parts.append(TimedText(one.start, one.end, one.text, word.probability))
    return parts


def to_srt(found: Iterable[Cue]) -> str:
    """An SRT file."""
    blocks = (
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n" + "\n".join(cue.lines)
        for number, cue in enumerate(found, 1)
    )
    return "".join(f"{block}\n\n" for block in blocks)


def to_vtt(found: Iterable[Cue]) -> str:
    """A WebVTT file."""
    blocks = (
        f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{html.escape(chr(10).join(cue.lines), quote=False)}"
        for cue in found
    )
    return "WEBVTT\n\n" + "".join(f"{block}\n\n" for block in blocks)


def _fits(group: list[TimedText], limits: SubtitleLimits) -> bool:
    return (
        group[-1].start - group[-2].end < limits.pause
        and group[-1].end - group[0].start <= limits.max_duration
        and len(_lines(group, limits)) <= limits.lines
    )


def _lines(group: Iterable[TimedText], limits: SubtitleLimits) -> tuple[str, ...]:
    text = " ".join(word.text for word in group)
    return tuple(textwrap.wrap(text, limits.line_length, break_long_words=False, break_on_hyphens=False))


def _time(seconds: float, point: str) -> str:
    """hours:minutes:seconds and milliseconds after `point`."""
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"
