"""How open_clip cleans texts before it tokenizes them, and what texts cannot be tokenized.

Source: https://github.com/mlfoundations/open_clip/blob/main/src/open_clip/tokenizer.py
"""

import html
import json
import re
import string
from typing import Any, Literal, get_args

Clean = Literal["whitespace", "lower", "canonicalize"]
MODES: tuple[str, ...] = get_args(Clean)
# Characters of scripts without spaces between words, for regular expressions: Thai, Lao, Khmer, Japanese, Chinese.
UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean_text(text: str, mode: Clean) -> str:
    """A text with broken encodings, quotes and HTML entities repaired, and spaces collapsed.

    mode: "whitespace" does no more, "lower" makes it lowercase, "canonicalize" removes punctuation as well (SigLIP).
    Raises ImportError for a text that needs ftfy, if that is not installed.
    """
    text = html.unescape(html.unescape(_fixed(text))).strip()
    if mode == "canonicalize":
        text = text.replace("_", " ").translate(_WITHOUT_PUNCTUATION)
    text = text if mode == "whitespace" else text.lower()
    return " ".join(text.split())


def _fixed(text: str) -> str:
    """The text as ftfy repairs it. Plain ASCII without entities has nothing to repair, so it needs no ftfy."""
    if text.isascii() and "&" not in text and re.sub(r"\s", " ", text).isprintable():
        return text
    try:
        import ftfy
    except ImportError:
        raise ImportError(
            f"the tokenizer of this model repairs texts with ftfy before it tokenizes them, which changes the ids of "
            f"texts such as {text[:40]!r}: pip install 'attention-zoo[clip]', or pip install ftfy"
        ) from None
    return ftfy.fix_text(text)


def with_cleaning(tokenizer: str, mode: Clean) -> str:
    """The contents of a tokenizer.json that cleans texts itself, as far as its normalizers can: they repair nothing."""
    values: dict[str, Any] = json.loads(tokenizer)
    steps: list[dict[str, Any]] = []
    if mode == "canonicalize":
        punctuation = "[" + re.escape(string.punctuation.replace("_", "")) + "]"
        steps += [_replace({"String": "_"}, " "), _replace({"Regex": punctuation}, "")]
    steps += [{"type": "Lowercase"}] if mode != "whitespace" else []
    steps += [_replace({"Regex": r"\s+"}, " "), {"type": "Strip", "strip_left": True, "strip_right": True}]
    steps += [values["normalizer"]] if values.get("normalizer") else []
    return json.dumps(values | {"normalizer": {"type": "Sequence", "normalizers": steps}}, ensure_ascii=False)


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def surrogate_problem(text: str) -> str:
    """What is wrong with a text that cannot be written as UTF-8; empty if it can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (f"has {text[error.start]!r} at character {error.start}, one half of a surrogate pair, which is not a "
                f"character: decode the text again from its bytes, or replace that place")  # fmt: skip
    return ""


def problem_of_text(text: Any, name: str) -> ValueError | None:
    """Why a text cannot be encoded; None if it can."""
    for part in text if isinstance(text, tuple) and len(text) == 2 else (text,):
        if not isinstance(part, str):
            return ValueError(f"{name} is of type {type(part).__name__}, expected a string or a tuple of two strings")
        if not part:
            return ValueError(f"{name} is empty")
        if problem := surrogate_problem(part):
            return ValueError(f"{name} {problem}")
    return None
