"""Names and texts of users and files, escaped for the terminal, Markdown, YAML and matplotlib. Torch-free.

A label or a file name may hold control sequences of a terminal, tags, or the marks of a markup language.
"""

import json
import re
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any, TextIO

# Characters that change the direction of the text around them; a label could show as another one.
DIRECTION = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
MARKDOWN = re.compile(r"[\\`*<|&$~]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|(?<!\w)[#@](?=\w)|(?<=\w):(?=//)")


def is_control(character: str) -> bool:
    """Whether a character is a control character, half of a pair, a line separator, or changes the direction."""
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in DIRECTION


def printable(text: object, keep: str = "") -> str:
    r"""Text for a terminal: control characters as escapes such as \x1b, except those in `keep`."""
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if is_control(c) and c not in keep else c for c in text)


def say(*lines: object, file: TextIO | None = None) -> None:
    """Print lines to stdout, or to `file`, without the control sequences that names in them may hold."""
    print(*(printable(line, keep="\n\t") for line in lines), sep="\n", file=file or sys.stdout)


def markdown(text: object) -> str:
    """Text in one line of Markdown or in a cell of a table, shown as it is: no markup, tags, links or line breaks."""
    return MARKDOWN.sub(lambda match: "\\" + match[0], printable(text))


def fenced(lines: Iterable[str], language: str) -> list[str]:
    """Lines of a Markdown code block that contain no end of the block."""
    lines = list(lines)
    longest = max((len(ticks) for line in lines for ticks in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", *(printable(line, keep="\n\t") for line in lines), fence]


def quoted(text: str) -> str:
    """Text as a string literal in double quotes, of Python, JSON or YAML."""
    return printable(json.dumps(text, ensure_ascii=False))


def figure_text(text: Any) -> str:
    """Text in a figure: matplotlib would typeset what stands between two dollar signs."""
    return printable(text, keep="\n\t").replace("\\$", "$").replace("$", "\\$")
