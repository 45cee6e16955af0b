"""Subtitles: limits of lines and times, and the two formats."""

import re

import pytest

from zoo.inference.subtitles import Cue, SubtitleLimits, TimedText, cues, to_srt, to_vtt


def words(text: str, step: float = 0.4, start: float = 0.0, length: float = 0.3) -> list[TimedText]:
    return [TimedText(start + i * step, start + i * step + length, w, 0.9) for i, w in enumerate(text.split())]


def test_lines_and_durations_are_limited_and_no_word_is_lost() -> None:
    text = "the quick brown fox jumps over the lazy dog " * 12
    found = cues(words(text))
    assert [word for cue in found for line in cue.lines for word in line.split()] == text.split()
    for cue, following in zip(found, [*found[1:], None]):
        assert len(cue.lines) <= 2 and max(map(len, cue.lines)) <= 42
        assert 0 < cue.end - cue.start <= 7.0
        assert following is None or cue.end <= following.start
    slow = cues(words(text, step=1.2, length=1.0))
    assert max(cue.end - cue.start for cue in slow) <= 7.0
    assert len(slow) > len(found)


def test_limits_are_options() -> None:
    found = cues(words("one two three four"), SubtitleLimits(line_length=9, lines=1))
    assert [cue.lines for cue in found] == [("one two",), ("three",), ("four",)]
    with pytest.raises(ValueError, match="expected positive numbers"):
        SubtitleLimits(lines=0)
    with pytest.raises(ValueError, match="min_duration at most as long"):
        SubtitleLimits(min_duration=8.0)


def test_a_pause_ends_a_subtitle() -> None:
    found = cues([*words("good morning"), *words("who is there", start=3.0)])
    assert [cue.lines for cue in found] == [("good morning",), ("who is there",)]
    assert found[0].start == 0.0 and found[1].start == 3.0


def test_short_ones_stay_for_a_second_or_until_the_next() -> None:
    found = cues([TimedText(0.0, 0.2, "yes", 1.0), TimedText(5.0, 5.1, "no", 1.0)])
    assert found == [Cue(0.0, 1.0, ("yes",)), Cue(5.0, 6.0, ("no",))]
    tight = cues([TimedText(0.0, 0.2, "yes", 1.0), TimedText(0.6, 0.8, "no", 1.0)], SubtitleLimits(pause=0.3))
    assert tight[0] == Cue(0.0, 0.6, ("yes",))


def test_a_word_longer_than_a_line_stays_whole() -> None:
    long = "x" * 60
    assert [cue.lines for cue in cues(words(f"a {long} b"), SubtitleLimits(lines=1))] == [("a",), (long,), ("b",)]


def test_a_word_longer_than_a_subtitle_may_last() -> None:
    assert cues([TimedText(1.0, 12.0, "aaah", 1.0)]) == [Cue(1.0, 8.0, ("aaah",))]


def test_srt() -> None:
    found = [Cue(0.0, 1.2345, ("one", "two")), Cue(3599.9996, 36061.5, ("<b> & c",))]
    assert to_srt(found) == (
        "1\n00:00:00,000 --> 00:00:01,234\none\ntwo\n\n2\n01:00:00,000 --> 10:01:01,500\n<b> & c\n\n"
    )


def test_vtt() -> None:
    text = to_vtt([Cue(0.0, 1.0, ("one", "two")), Cue(61.5, 62.0, ("<b> & c -->",))])
    assert text.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\none\ntwo\n\n")
    assert text.endswith("00:01:01.500 --> 00:01:02.000\n&lt;b&gt; &amp; c --&gt;\n\n")
    assert len(re.findall(" --> ", text)) == 2


def test_nothing_said_is_a_file_without_subtitles() -> None:
    assert cues([]) == [] and to_srt([]) == "" and to_vtt([]) == "WEBVTT\n\n"
