"""Plots by matplotlib that need no display: labels of a limited length, and fonts for all scripts."""

import unicodedata
import warnings
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from zoo.utils.console import announce
from zoo.utils.escape import figure_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of the palette of Okabe and Ito, whose colors color-blind readers can distinguish.
BLUE, ORANGE = "#0072B2", "#D55E00"
PALETTE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

_announced: set[str] = set()


def make_figure(width: float, height: float, dpi: float = 110) -> "Figure":
    """An empty figure of so many inches, whose parts are laid out so that they do not overlap."""
    from matplotlib.figure import Figure

    return Figure((width, height), dpi=dpi, layout="constrained")


def display_width(text: str) -> int:
    """The width of a text in columns: characters of Chinese, Japanese and Korean take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


def label_text(text: Any, width: int = 32, keep_end: bool = False) -> str:
    """A name in one line of a figure, at most `width` columns: of a longer one the start, or its end as well."""
    text = " ".join(str(text).split())
    if display_width(text) > width:
        end = _cut(text[::-1], width // 2)[::-1] if keep_end else ""
        text = _cut(text, width - 1 - display_width(end)).rstrip() + "…" + end.lstrip()
    return figure_text(text)


def _cut(text: str, width: int) -> str:
    while display_width(text) > width:
        text = text[:-1]
    return text


def use_fonts_for_all_scripts(figure: "Figure") -> None:
    """Let all texts of a figure use installed fonts that have their characters; say so once if there is none."""
    from matplotlib.font_manager import findfont
    from matplotlib.text import Text

    texts: list[Any] = [text for text in figure.findobj(Text) if not text.get_text().isascii()]
    characters = frozenset(ord(c) for text in texts for c in text.get_text() if c.isprintable() and not c.isspace())
    missing = characters - _characters(findfont("DejaVu Sans"))
    if not missing:
        return
    families, missing = _fallback_fonts(missing)
    for text in texts:
        text.set_fontfamily(["DejaVu Sans", *families])
    if missing:
        # Whoever shows the figure would get a warning for each character.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        sample = "".join(map(chr, sorted(missing)[:5]))
        notice = f"plots show boxes for characters that no installed font has ({sample}): install a font that has them"
        if not _announced:
            announce(f"{notice}, such as Noto Sans CJK for Chinese, Japanese and Korean")
        _announced.add(notice)


@cache
def _characters(file: str) -> frozenset[int]:
    """The characters of a font."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(file).get_charmap())


@cache
def _fallback_fonts(missing: frozenset[int]) -> tuple[list[str], frozenset[int]]:
    """The installed fonts that have the missing characters, and the characters that none of them has."""
    from matplotlib.font_manager import fontManager

    chosen: list[str] = []
    for family, file in sorted(_installed(fontManager.ttflist)):
        if found := missing & _characters(file):
            chosen.append(family)
            missing -= found
        if not missing:
            break
    return chosen, missing


def _installed(fonts: Iterable[Any]) -> set[tuple[str, str]]:
    """(family, file) of the fonts of normal style and weight."""
    plain = {font.name: font.fname for font in fonts if font.style == "normal" and font.weight in (400, "normal")}
    return {(name, file) for name, file in plain.items() if "last resort" not in name.lower()}
