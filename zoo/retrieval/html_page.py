"""What a search found, as one HTML file: no server, no network, no script; pictures and sounds are within it."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.retrieval.encode import file_modality, item_modality
from zoo.utils.files import write_atomic

EDGE = 320  # pixels of a thumbnail's longer edge
SMALL = 96  # pictures with shorter edges are shown in their own pixels
SOUND_BYTES = 1_500_000  # of one sound; a longer one is named, not played
TEXT_LENGTH = 600  # letters that are shown of a text
MEDIA = {".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg", ".mp3": "audio/mpeg", ".opus": "audio/ogg",
         ".m4a": "audio/mp4"}  # fmt: skip


@dataclass(frozen=True)
class Card:
    """One answer. thing: a picture or a sound (a path, a PIL image, uint8 [C, H, W], (waveform, rate)) or a text;
    right: whether it is a true answer, where that is known."""

    thing: Any
    score: float | None = None
    caption: str = ""
    right: bool | None = None


def write_page(path: str | Path, results: Sequence[tuple[Any, Sequence[Any]]], *, title: str = "Search",
               note: str = "") -> Path:  # fmt: skip
    """Write the answers to one or several queries as one HTML file that any browser shows, and return its path.

    results: (query, answers) each. A query is a text, a picture or a sound; an answer is a `Hit` of `zoo.search` or a
    `Card`. note: a line below the title, such as which model searched where. A file that cannot be shown says why.
    """
    if not results:
        raise ValueError("no results to write: expected (query, answers) of at least one query")
    sections = [section(i, query, [as_card(hit) for hit in hits]) for i, (query, hits) in enumerate(results)]
    said = f'<p class="note">{shown(note)}</p>' if note else ""
    links = "".join(f'<li><a href="#q{i}">{shown(short(query))}</a></li>' for i, (query, _) in enumerate(results))
    menu = f'<nav aria-label="Queries"><ol>{links}</ol></nav>' if len(results) > 1 else ""
    page = PAGE.format(title=escaped(title), head=shown(title), style=STYLE, note=said, menu=menu,
                       main="\n".join(sections))  # fmt: skip
    write_atomic(path, page)
    return Path(path)


def as_card(hit: Any) -> Card:
    if isinstance(hit, Card):
        return hit
    return Card(hit.name if hit.path is None else hit.path, hit.score, hit.name if hit.path else "")


def section(number: int, query: Any, cards: list[Card]) -> str:
    scores = [card.score for card in cards if card.score is not None]
    best, least = (max(scores), min(0.0, *scores)) if scores else (1.0, 0.0)
    items = "\n".join(item(rank, card, best, least) for rank, card in enumerate(cards, 1))
    name = shown(short(query))
    asked = f"<h2>{name}</h2>"
    if not is_text(query):
        asked = f'<h2 class="thing">{media(query, short(query))}<span>{name}</span></h2>'
    many = f"{len(cards)} answer{'s' * (len(cards) != 1)}" if cards else "nothing found"
    return (
        f'<section id="q{number}"><header><p class="label">Query</p>{asked}'
        f'<p class="count">{many}</p></header>\n<ol class="cards">\n{items}\n</ol></section>'
    )


def item(rank: int, card: Card, best: float, least: float) -> str:
    caption = card.caption or ("" if is_text(card.thing) else short(card.thing))
    mark = '<span class="mark">right</span>' if card.right else ""
    score = ""
    if card.score is not None:
        share = (card.score - least) / (best - least) if best > least else 1.0
        score = f'<span class="bar" style="--share:{share:.3f}"></span><span class="score">{card.score:.3f}</span>'
    kind = "right" if card.right else "answer"
    said = f"answer {rank}" + (f": {caption}" if caption else "")
    return (
        f'<li class="{kind}"><figure>{media(card.thing, said)}<figcaption><span class="rank">{rank}</span>'
        f'<span class="name">{shown(caption)}{mark}</span>{score}</figcaption></figure></li>'
    )


# --- Things -----------------------------------------------------------------------------------------------------------


def media(thing: Any, said: str) -> str:
    """The HTML of a picture, a sound or a text, or of the reason why it cannot be shown."""
    try:
        kind = item_modality(thing)
        if isinstance(thing, Path) and not thing.is_file():
            raise ValueError("the file is gone")
        if kind == "image":
            return picture(thing, said)
        return sound(thing, said) if kind == "audio" else text(thing)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # what decoders raise for a file that changed since it was found
        return f'<div class="missing"><span>cannot be shown: {shown(" ".join(str(error).split()))}</span></div>'


def picture(thing: Any, said: str) -> str:
    from PIL import Image, ImageOps

    image: Any = thing
    if isinstance(thing, str | Path):
        with Image.open(thing) as image:
            image.load()
    elif isinstance(thing, Tensor):
        image = Image.fromarray(thing.movedim(0, -1).squeeze(-1).cpu().numpy())
    image = ImageOps.exif_transpose(image)
    clear = image.has_transparency_data
    image = image.convert("RGBA" if clear else "RGB")
    image.thumbnail((EDGE, EDGE))
    buffer, small = io.BytesIO(), max(image.size) <= SMALL
    image.save(buffer, "PNG" if clear or small else "JPEG", quality=85)
    data = data_uri(buffer.getvalue(), "image/png" if clear or small else "image/jpeg")
    width, height = image.size
    tiny = ' class="small"' if small else ""
    return f'<img{tiny} src="{data}" width="{width}" height="{height}" alt="{escaped(said)}">'


def sound(thing: Any, said: str) -> str:
    if isinstance(thing, tuple):
        import soundfile

        buffer, sampling_rate = io.BytesIO(), int(thing[1])
        soundfile.write(buffer, Tensor(thing[0]).numpy(), sampling_rate, format="WAV", subtype="PCM_16")
        content, mime = buffer.getvalue(), MEDIA[".wav"]
    else:
        ending = Path(thing).suffix.lower()
        if ending not in MEDIA:
            raise ValueError(f"browsers do not play {ending} files")
        size = Path(thing).stat().st_size
        content, mime = (Path(thing).read_bytes() if size <= SOUND_BYTES else b""), MEDIA[ending]
        if size > SOUND_BYTES:
            raise ValueError(f"a sound of {size / 1e6:.1f} MB is too large to be put into the page")
    if len(content) > SOUND_BYTES:
        raise ValueError(f"a sound of {len(content) / 1e6:.1f} MB is too large to be put into the page")
    return f'<audio controls preload="metadata" src="{data_uri(content, mime)}" aria-label="{escaped(said)}"></audio>'


def text(thing: Any) -> str:
    is_file = isinstance(thing, Path) or file_modality(thing) == "text"
    whole = Path(thing).read_text(encoding="utf-8") if is_file else str(thing)
    cut = whole[:TEXT_LENGTH].rstrip() + " …" if len(whole) > TEXT_LENGTH else whole
    return f"<blockquote>{shown(cut)}</blockquote>"


def data_uri(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def is_text(thing: Any) -> bool:
    return isinstance(thing, str) and item_modality(thing) == "text"


def short(thing: Any) -> str:
    """What a thing is called."""
    if is_text(thing):
        return thing
    return Path(thing).name if isinstance(thing, str | Path) else "a sound" if isinstance(thing, tuple) else "a picture"


def escaped(text: str) -> str:
    """For an attribute or a title: names of files may hold anything, quotes, tags and bytes that are no UTF-8."""
    plain = text.encode("utf-8", "replace").decode("utf-8")
    return html.escape("".join(c if c.isprintable() or c in "\n\t " else "\ufffd" for c in plain), quote=True)


def shown(text: str) -> str:
    """For the page: whichever way the text is written, it does not turn what stands around it."""
    return f"<bdi>{escaped(text)}</bdi>"


# --- The page ---------------------------------------------------------------------------------------------------------

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header class="top"><h1>{head}</h1>{note}{menu}</header>
<main>
{main}
</main>
</body>
</html>
"""  # noqa: E501

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
h2.thing { display: flex; align-items: end; gap: 0.8rem; font-size: 1.1rem; }
h2.thing img { max-width: 14rem; max-height: 10rem; width: auto; height: auto; border-radius: 0.5rem; }
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
