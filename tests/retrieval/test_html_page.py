"""The page of answers: whole without a network, nothing that it shows is taken for HTML, sounds and pictures in it."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from search_models import draw

from zoo.preprocessing import display
from zoo.retrieval.html_page import Card, write_page
from zoo.retrieval.search import Hit

VOID = {"meta", "img", "link", "br"}
NASTY = '<script>alert("1")</script> & \'quotes\' "><img src=x onerror=y> \u202etxt'


class Page(HTMLParser):
    """Tags, attributes and text; that every tag is closed is checked as they come."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "page.html"


def test_queries_and_answers_in_their_order(tmp_path, out):
    paths = draw(tmp_path / "p", 6)
    hits = [Hit(path.name, 0.9 - i / 10, "image", path) for i, path in enumerate(paths)]
    assert write_page(out, [("red things", hits), (paths[0], hits[:2])], title="A title", note="a note") == out
    found = Page(out)
    assert found.all("html") == [{"lang": "en"}] and len(found.all("section")) == 2 and len(found.all("h2")) == 2
    assert [img["alt"] for img in found.all("img")][:6] == [f"result {i}: {p.name}" for i, p in enumerate(paths, 1)]
    assert len(found.all("img")) == 9 and len(found.all("li")) == 8 + 2  # a picture query, and two links to queries
    for said in ("A title", "a note", "red things", "6 results", "0.900", "0.400", "red-0.png"):
        assert said in found.text
    links = [a["href"] for a in found.all("a")]
    assert links == ["#q0", "#q1"] and [s["id"] for s in found.all("section")] == ["q0", "q1"]


def test_nothing_is_fetched_and_nothing_runs(tmp_path, out):
    write_page(out, [("x", [Card(path) for path in draw(tmp_path / "p", 2)])])
    found = Page(out)
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in found.tags}
    for _, attrs in found.tags:
        assert (attrs.get("src") or "data:").startswith("data:")
        assert not [name for name in attrs if name.startswith("on")]
    assert "http:" not in found.source and "https:" not in found.source and "url(" not in found.source
    policy = next(m["content"] for m in found.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy and policy.startswith("default-src 'none'") and "script" not in policy
    assert str(tmp_path) not in found.source  # where the pictures lie is nobody's business


def test_what_is_shown_is_not_taken_for_html(out):
    write_page(out, [(NASTY, [Card(NASTY, 0.5, NASTY), Card(Path(f"{NASTY}.png"), 0.1)])], title=NASTY, note=NASTY)
    found = Page(out)
    assert not found.all("script") and not found.all("img")
    assert found.text.count('<script>alert("1")</script>') >= 5
    assert "\u202e" not in found.source


def test_a_thumbnail_is_small_and_its_picture(tmp_path, out):
    Image.effect_noise((2000, 1000), 90).convert("RGB").save(tmp_path / "big.png")
    clear = Image.new("RGBA", (50, 40), (255, 0, 0, 100))
    pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    write_page(out, [("x", [Card(tmp_path / "big.png"), Card(clear), Card(pixels), Card(torch.zeros(1, 8, 8).byte())])])
    big, small, tensor, gray = Page(out).all("img")
    assert (big["width"], big["height"]) == ("320", "160") and len(big["src"] or "") < 200_000
    assert (small["width"], small["class"]) == ("50", "small") and tensor["width"] == gray["width"] == "8"
    shown = Image.open(io.BytesIO(base64.b64decode((small["src"] or "").split(",")[1])))
    assert shown.mode == "RGBA" and shown.getpixel((1, 1)) == (255, 0, 0, 100)


def test_a_picture_stands_upright(tmp_path, out):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 200)).save(tmp_path / "turned.jpg", exif=exif)
    write_page(out, [("x", [Card(tmp_path / "turned.jpg")])])
    (img,) = Page(out).all("img")
    assert (img["width"], img["height"]) == ("200", "100")


def test_sounds_are_in_the_page_unless_they_are_long(tmp_path, out, monkeypatch):
    import soundfile

    wave = torch.sin(torch.arange(4000) / 10) * 0.5
    soundfile.write(tmp_path / "tone.wav", wave.numpy(), 8000)
    write_page(out, [((wave, 8000), [Card(tmp_path / "tone.wav", 0.5), Card((wave, 8000))])])
    audio = Page(out).all("audio")
    assert len(audio) == 3 and all("controls" in a for a in audio) and audio[1]["aria-label"] == "result 1: tone.wav"
    content = base64.b64decode(re.sub("^data:audio/wav;base64,", "", audio[1]["src"] or ""))
    assert content == (tmp_path / "tone.wav").read_bytes()
    monkeypatch.setattr(display, "AUDIO_BYTES", 1000)
    write_page(out, [("x", [Card(tmp_path / "tone.wav", 0.5), Card((wave, 8000))])])
    assert not Page(out).all("audio") and Page(out).text.count("too large to embed") == 2


def test_what_cannot_be_shown_says_why(tmp_path, out):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    (tmp_path / "x.aiff").write_bytes(b"nothing")
    cards = [Card(tmp_path / "gone.png", 0.3), Card(tmp_path / "broken.png"), Card(tmp_path / "x.aiff")]
    write_page(out, [("x", cards), ("y", [])])
    text = Page(out).text
    assert "the file is gone" in text and "is not a readable image file" in text and "cannot play .aiff" in text
    assert "nothing found" in text
    with pytest.raises(ValueError, match="no results"):
        write_page(out, [])


def test_texts_and_marks(tmp_path, out):
    (tmp_path / "t.txt").write_text("a line\n" * 300)
    write_page(out, [("x", [Card(tmp_path / "t.txt", -0.5), Card("short", 0.1, right=True), Card("no", right=False)])])
    found = Page(out)
    assert len(found.all("blockquote")) == 3 and "…" in found.text and found.text.count("a line") < 100
    assert [li.get("class") for li in found.all("li")] == ["result", "right", "result"]
    assert [s for s in found.all("span") if s.get("class") == "mark"] == [{"class": "mark"}]
    bars = [s["style"] for s in found.all("span") if s.get("class") == "bar"]
    assert bars == ["--share:0.000", "--share:1.000"]
