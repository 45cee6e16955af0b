"""The page of `zoo.explore` in a real browser: it opens from disk, reacts to mouse and keys, and loads nothing."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from image_text_models import small_bridge
from webdriver import Browser, browser, missing_browser

import zoo
from zoo.preprocessing.image import ImageProcessor
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.preprocessing.tokenizer_training import train

TEXT = "a red bird sat on a green frog"
EVIL = '</script><script>document.title = "changed"</script><b id=bold>&amp;'
pytestmark = pytest.mark.skipif(bool(missing_browser()), reason=missing_browser())


@pytest.fixture(scope="module")
def page() -> Any:
    image = {"name": "vit_cifar_tiny", "depth": 2, "width": 32, "heads": 2}
    text = {"name": "bert_tiny", "depth": 3, "width": 32, "heads": 4, "vocab_size": 300, "mlp_dim": 64}
    model = zoo.contrast(image=image, text=text, width=24, seed=0).eval()
    words = train("wordpiece", [TEXT, EVIL] * 5, 300, max_length=40)
    model.preprocess = MultimodalProcessor(image=ImageProcessor(size=(32, 32)), text=words)
    picked = {("text.blocks.2.mixer", 1): "previous token"}
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return model, lambda text, **options: zoo.explore(model, [pixels, text], roles=picked, **options)


@pytest.fixture(scope="module")
def window(page: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("browser")
    page[1](TEXT).save(folder / "page.html")
    with browser(folder / "profile") as found:
        found.folder = folder
        found.resize(1200, 900)
        yield found


def opened(window: Browser, address: str = "", name: str = "page.html") -> str:
    window.open((window.folder / name).as_uri() + address)
    return window.run("document.querySelector('.readout').textContent")


def test_a_head_and_a_query_are_opened_by_their_address(window: Browser, page: Any) -> None:
    readout = opened(window, "#maps=text&layer=2&head=1&query=2")
    assert window.run("document.querySelector('h3').textContent").startswith("Layer 2, head 1 · previous token")
    with zoo.capture(page[0], layers="text.blocks.2.mixer", heads=1) as maps, torch.no_grad():
        page[0](**page[0].preprocess(text=TEXT))
    row = maps["text.blocks.2.mixer"][0, 0, 2]
    tokens = window.run("[...document.querySelectorAll('.token')].map((token) => token.textContent)")
    best = int(row.argmax())
    shown = re.match(rf"“{tokens[2]}” attends to “{re.escape(tokens[best])}” ([\d.]+)%", readout)
    assert shown and float(shown[1]) == pytest.approx(100 * float(row[best]), abs=0.4)
    assert window.run("document.querySelectorAll('.token.active').length") == 1


def test_mouse_and_keys(window: Browser) -> None:
    opened(window, "#maps=text&layer=0&head=0")
    readout = "document.querySelector('.readout').textContent"
    window.hover(".token", 3)
    window.until(f"{readout}.includes(document.querySelectorAll('.token')[3].textContent + '” attends to')")
    window.hover(".token", 4, click=True)
    window.until("location.hash.endsWith('query=4')")
    window.hover("h1")  # it is held
    assert window.run("document.querySelectorAll('.token')[4].classList.contains('active')")
    window.press("Escape")
    window.run("document.querySelector('.overview').focus()")
    window.press("ArrowDown", "ArrowRight", "ArrowRight")
    window.until("location.hash === '#maps=text&layer=1&head=2'")
    window.press("Enter", "ArrowRight", "ArrowRight", "ArrowRight", "Enter")
    window.until("location.hash === '#maps=text&layer=1&head=2&query=2'")
    window.press("Escape", "Escape")
    assert window.run("document.activeElement.className") == "overview"


def test_patches_show_what_they_attend_to(window: Browser) -> None:
    opened(window, "#maps=image&layer=1&head=1")
    readout = "document.querySelector('.readout').textContent"
    window.hover(".grid")
    window.until(f"{readout}.startsWith('patch in row') && {readout}.includes('attends to')")
    assert not window.run("document.querySelector('.mark').hidden")
    ink = "document.querySelector('.weights').getContext('2d').getImageData(0, 0, 8, 8).data.some((v) => v > 0)"
    assert window.run(ink)


def test_tiles_of_an_image(window: Browser) -> None:
    model = small_bridge("llava_next_nano")
    zoo.explore(model, [torch.full((3, 90, 150), 90, dtype=torch.uint8), TEXT]).save(window.folder / "tiles.html")
    opened(window, "#maps=text&layer=1&head=1", "tiles.html")
    readout = "document.querySelector('.readout').textContent"
    window.hover(".grid", 0)
    window.until(f"{readout}.startsWith('whole image, patch in row')")
    window.hover(".grid", 1)
    window.until(f"{readout}.startsWith('tile ') && {readout}.includes('attends to whole image, patch in row')")
    labels = "[3, 4, 6, 8, 9, 14].map((index) => panels[0].queries.label(index))"
    assert window.run(labels) == [
        "whole image, patch in row 2, column 2", "tile 1, patch in row 2, column 1", "tile 2, patch in row 2, column 1",
        "end of row 1 of the tiles", "tile 3, patch in row 1, column 1", "“↵”",
    ]  # fmt: skip
    lines = "[...document.querySelectorAll('.between')].map((line) => line.style.left || line.style.top)"
    assert window.run(lines) == ["50%", "40%"]


def test_several_models_have_the_same_head_and_position(window: Browser, page: Any) -> None:
    inputs = [torch.zeros(3, 32, 32, dtype=torch.uint8), TEXT]
    zoo.explore([page[0], page[0]], inputs, names=["a", "b"]).save(window.folder / "two.html")
    opened(window, "#maps=text&layer=1&head=2", "two.html")
    window.hover(".token", 3, click=True)
    window.until("panels.every((panel) => panel.held?.index === 3 && panel.state.head === 2)")
    window.press("Escape")
    window.until("panels.every((panel) => panel.held === null && panel.active === null)")
    choose = "((select, value) => { select.value = value; select.dispatchEvent(new Event('change')); })"
    window.run(f"{choose}(panels[0].sorts.select, 'entropy')")
    window.run(f"{choose}(panels[0].groups.select, 0)")
    window.until("panels.every((panel) => panel.group.name === 'image')")
    assert window.run("panels[0].heads.sort") == "entropy" and window.run("panels[1].heads.sort") == "layer"


def test_what_looks_like_html_is_text_and_nothing_is_loaded(window: Browser, page: Any) -> None:
    window.log("browser"), window.requests()
    page[1](EVIL, names=EVIL, faithfulness={EVIL: {EVIL: 0.5}}).save(window.folder / "evil.html")
    opened(window, name="evil.html")
    assert EVIL in window.run("document.title") and not window.run("document.getElementById('bold')")
    assert window.run("document.querySelector('h2').textContent") == EVIL
    assert window.run("document.querySelector('td').textContent") == EVIL
    assert [entry for entry in window.log("browser") if entry["level"] == "SEVERE"] == []
    assert set(window.requests()) == {(window.folder / "evil.html").as_uri()}


def test_a_phone_shows_the_page_in_its_width(window: Browser) -> None:
    window.resize(500, 900)
    opened(window, "#maps=text&layer=0&head=0&query=1")
    assert window.run("document.documentElement.scrollWidth <= window.innerWidth")
    window.resize(1200, 900)


def test_tables_for_screen_readers_and_sorting(window: Browser) -> None:
    opened(window, "#maps=text&layer=0&head=0")
    window.run("document.querySelectorAll('details').forEach((each) => each.open = true)")
    window.until("document.querySelectorAll('td').length > 30")
    rows = window.run(
        "[...document.querySelectorAll('details')].map((each) => each.querySelectorAll('tbody tr').length)"
    )
    assert rows == [window.run("document.querySelectorAll('.token').length"), 12]
    sort = "document.querySelectorAll('select')[1]"
    assert window.run(f"[...{sort}.options].map((each) => each.value)") == ["layer", "role", "entropy", "distance"]
    for name in ("role", "entropy"):
        window.run(f"({sort}.value = {name!r}, {sort}.dispatchEvent(new Event('change')))")
    values = window.run("panels[0].heads.order.map((cell) => cell.entropy)")
    assert values == sorted(values) and window.run("panels[0].heads.cells.every((cell) => cell.x >= 0)")
