"""Splits a text into sentences."""

import re

from zoo.preprocessing.text_cleaning import UNSPACED

_ENDS = re.compile(
    r"(?:[.!?…]+[\"'”’»)\]]*(?=\s)"  # with what closes a quotation
    rf"|[。！？]+[」』”’）]*|[.!?](?=[{UNSPACED}])"
    r"|\n\s*\n|\n(?=\s*(?:[-*•]|\d+[.)])\s))"  # or a paragraph, or an item of a list
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“‘«])(?:[^\W\d_]|(?:[^\W\d_]\.)+[^\W\d_]|"  # an initial, or several: e.g., z.B.
    r"mr|mrs|ms|dr|prof|st|vs|etc|al|approx|dept|est|inc|ltd|jr|sr|gen|col|rev|hon|"
    r"bzw|ca|evtl|ggf|inkl|str|usw|vgl|sog|hr|fr|tel)\.$",
    re.IGNORECASE,
)
_BEFORE_NUMBER = re.compile(r"(?:^|[\s(])(?:no|nr|fig|vol|pp|abs)\.$", re.IGNORECASE)  # No. 5; but: The answer is no.
_ORDINAL = re.compile(r"(?:^|\s)\d{1,2}\.$")  # of German dates: am 3. Mai


def split_sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence of a text, in characters, without the space around it.

    A sentence ends at a mark that space follows, unless it belongs to an abbreviation, an initial or a short number, or
    lower case continues the sentence; at the marks of Chinese and Japanese; and at an empty line. These rules are for
    reading, not for linguistics: `nltk.sent_tokenize` or spaCy know more.
    """
    spans, start = [], 0
    for found in _ENDS.finditer(text):
        if found.start() < start:
            continue
        if found[0][0] == "." and len(found[0]) == 1 and _continues(text, start, found.end()):
            continue
        spans.append((start, found.end()))
        start = found.end()
    spans.append((start, len(text)))
    return [(a, b) for a, b in (_trimmed(text, *span) for span in spans) if a < b]


def _continues(text: str, start: int, end: int) -> bool:
    """Whether a full stop at `end` does not end the sentence."""
    before, after = text[max(start, end - 20) : end], text[end:].lstrip()
    if _BEFORE_NUMBER.search(before) and after[:1].isdigit():
        return True
    return bool(_ABBREVIATION.search(before) or _ORDINAL.search(before)) or after[:1].islower()


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())
