"""Search results as one HTML file with images and audio inside it: no server, no network, no script."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.preprocessing.display import escape, isolated
from zoo.preprocessing.modality import item_modality, of_item
from zoo.utils.files import write_atomic
from zoo.utils.html_document import html_document


@dataclass(frozen=True)
class Card:
    """One result. item: an image or an audio clip (a path, a PIL image, uint8 [C, H, W], (waveform, sampling rate)) or
    a text; right: whether it is a correct result, where that is known."""

    item: Any
    score: float | None = None
    caption: str = ""
    right: bool | None = None


def write_page(path: str | Path, results: Sequence[tuple[Any, Sequence[Any]]], *, title: str = "Search",
               note: str = "") -> Path:  # fmt: skip
    """Write the results of one or several queries as one HTML file, and return its path.

    results: (query, results) each. A query is a text, an image or an audio clip; a result is a `Hit` of `zoo.search` or
    a `Card`. note: a line below the title, such as the model and the corpus. A file that cannot be shown says why.
    """
    if not results:
        raise ValueError("no results to write: expected (query, results) of at least one query")
    sections = [section(i, query, [as_card(hit) for hit in hits]) for i, (query, hits) in enumerate(results)]
    note_html = f'<p class="note">{isolated(note)}</p>' if note else ""
    links = "".join(f'<li><a href="#q{i}">{isolated(short(query))}</a></li>' for i, (query, _) in enumerate(results))
    menu = f'<nav aria-label="Queries"><ol>{links}</ol></nav>' if len(results) > 1 else ""
    body = BODY.format(head=isolated(title), note=note_html, menu=menu, main="\n".join(sections))
    write_atomic(path, html_document(escape(title), STYLE, body, more="media-src data:"))
    return Path(path)


def as_card(hit: Any) -> Card:
    if isinstance(hit, Card):
        return hit
    return Card(hit.name if hit.path is None else hit.path, hit.score, hit.name if hit.path else "")


def section(number: int, query: Any, cards: list[Card]) -> str:
    scores = [card.score for card in cards if card.score is not None]
    best, least = (max(scores), min(0.0, *scores)) if scores else (1.0, 0.0)
    items = "\n".join(item(rank, card, best, least) for rank, card in enumerate(cards, 1))
    name = isolated(short(query))
    heading = f"<h2>{name}</h2>"
    if not is_text(query):
        heading = f'<h2 class="item">{media(query, short(query))}<span>{name}</span></h2>'
    many = f"{len(cards)} result{'s' * (len(cards) != 1)}" if cards else "nothing found"
    return (
        f'<section id="q{number}"><header><p class="label">Query</p>{heading}'
        f'<p class="count">{many}</p></header>\n<ol class="cards">\n{items}\n</ol></section>'
    )


def item(rank: int, card: Card, best: float, least: float) -> str:
    caption = card.caption or ("" if is_text(card.item) else short(card.item))
    mark = '<span class="mark">right</span>' if card.right else ""
    score = ""
    if card.score is not None:
        share = (card.score - least) / (best - least) if best > least else 1.0
        score = f'<span class="bar" style="--share:{share:.3f}"></span><span class="score">{card.score:.3f}</span>'
    kind = "right" if card.right else "result"
    alt = f"result {rank}" + (f": {caption}" if caption else "")
    return (
        f'<li class="{kind}"><figure>{media(card.item, alt)}<figcaption><span class="rank">{rank}</span>'
        f'<span class="name">{isolated(caption)}{mark}</span>{score}</figcaption></figure></li>'
    )


# --- Items -----------------------------------------------------------------------------------------------------------


def media(item: Any, alt: str) -> str:
    """The HTML of an item, or of the reason why it cannot be shown."""
    try:
        modality = of_item(item)
        if isinstance(item, Path) and not item.is_file():
            raise ValueError("the file is gone")
        return modality.html(item, alt)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # decoders raise errors of many types for a file that changed since it was found
        return f'<div class="missing"><span>cannot be shown: {isolated(" ".join(str(error).split()))}</span></div>'


def is_text(item: Any) -> bool:
    return isinstance(item, str) and item_modality(item) == "text"


def short(item: Any) -> str:
    """A text itself, the name of a file, or what an item without a name is called."""
    if is_text(item):
        return item
    return Path(item).name if isinstance(item, str | Path) else of_item(item).unnamed


# --- The page ---------------------------------------------------------------------------------------------------------

BODY = """<header class="top"><h1>{head}</h1>{note}{menu}</header>
<main>
{main}
</main>
"""

STYLE = """
:root {
  --page: #f6f5f2; --card: #ffffff; --ink: #1d1f23; --soft: #5b6068; --line: #dcd9d2; --mark: #0b6e4f; --bar: #3d6fb4;
  --empty: #e9e6df;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15171b; --card: #1f2228; --ink: #eceae4; --soft: #a3a8b1; --line: #343941; --mark: #6fd3ab; --bar: #7aa7e6;
    --empty: #2a2e35;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 90rem; background: var(--page);
  color: var(--ink); font: 1rem/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { margin: 0; font-size: 1.1rem; font-weight: 600; letter-spacing: 0.01em; }
.note { margin: 0.2rem 0 0; color: var(--soft); font-size: 0.9rem; overflow-wrap: anywhere; }
nav ol { display: flex; flex-wrap: wrap; gap: 0.4rem; margin: 1rem 0 0; padding: 0; list-style: none; }
nav a { display: block; padding: 0.2rem 0.7rem; border: 1px solid var(--line); border-radius: 1rem; color: inherit;
  background: var(--card); text-decoration: none; font-size: 0.9rem; }
nav a:hover { border-color: var(--bar); }
a:focus-visible { outline: 3px solid var(--bar); outline-offset: 2px; }
section { margin-top: 2.5rem; scroll-margin-top: 1rem; }
section header { display: grid; gap: 0.1rem; margin-bottom: 1rem; }
.label, .count { margin: 0; color: var(--soft); font-size: 0.85rem; }
h2 { margin: 0; font-size: clamp(1.4rem, 3vw, 2rem); line-height: 1.2; font-weight: 650; overflow-wrap: anywhere; }
h2.item { display: flex; align-items: end; gap: 0.8rem; font-size: 1.1rem; }
h2.item img { max-width: 14rem; max-height: 10rem; width: auto; height: auto; border-radius: 0.5rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(11rem, 100%), 1fr)); gap: 1rem; margin: 0;
  padding: 0; list-style: none; }
.cards > li { background: var(--card); border: 1px solid var(--line); border-radius: 0.7rem; overflow: hidden; }
.cards > li.right { border-color: var(--mark); box-shadow: 0 0 0 1px var(--mark); }
figure { display: flex; flex-direction: column; height: 100%; margin: 0; }
figure img { display: block; width: 100%; height: auto; aspect-ratio: 1; object-fit: contain;
  background: var(--empty); }
img.small { image-rendering: pixelated; }
audio { display: block; width: calc(100% - 1rem); margin: 1.2rem 0.5rem; }
blockquote { margin: 0; padding: 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.missing { display: grid; place-items: center; aspect-ratio: 1; padding: 1rem; background: var(--empty);
  color: var(--soft); font-size: 0.85rem; text-align: center; overflow-wrap: anywhere; }
figcaption { display: grid; grid-template: 1fr auto / auto 1fr auto; flex: 1; align-items: baseline; gap: 0.3rem 0.5rem;
  padding: 0.6rem 0.8rem; font-size: 0.9rem; }
.rank, .score { color: var(--soft); font-variant-numeric: tabular-nums; }
.name { overflow-wrap: anywhere; grid-column: 2 / -1; }
.right .name { font-weight: 600; }
.mark { display: block; color: var(--mark); font-size: 0.8rem; }
.bar { grid-column: 1 / 3; align-self: center; height: 4px; border-radius: 2px;
  background: linear-gradient(to right, var(--bar) calc(var(--share) * 100%), var(--empty) 0); }
@media print { body { background: none; } .cards > li { break-inside: avoid; } }
"""
