"""Pages in a real browser: what they show is painted. Skipped without one; .ci/full names it in ZOO_BROWSER."""

import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image
from webdriver import NO_BROWSER, find_browser

from zoo.retrieval.html_page import Card, write_page

RED, GREEN = (250, 10, 20), (10, 240, 30)  # colors that the page itself does not have
pytestmark = pytest.mark.full


@pytest.fixture
def browser() -> str:
    found = find_browser()
    if not found:
        pytest.skip(NO_BROWSER)
    return found


def screenshot(browser: str, page: Path, width: int = 1000, height: int = 1200) -> Image.Image:
    """What the browser paints of a file, without a network."""
    file = page.with_suffix(".png")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
               f"--user-data-dir={page.parent / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND",
               f"--window-size={width},{height}", f"--screenshot={file}", page.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert file.is_file(), done.stderr[-2000:]
    return Image.open(file).convert("RGB")


def pixels(image: Image.Image, color: tuple[int, int, int]) -> int:
    """How many pixels have a color, within 12 levels of each channel."""
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(-1, 3).int()
    return int(((values - torch.tensor(color)).abs().amax(1) <= 12).sum())


def plain(color: tuple[int, int, int]) -> torch.Tensor:
    """An image of one color, uint8 [3, 64, 64]."""
    return torch.tensor(color, dtype=torch.uint8)[:, None, None].expand(3, 64, 64).contiguous()


@pytest.mark.parametrize("width", [1000, 400])
def test_a_page_of_results_shows_its_images(browser: str, tmp_path: Path, width: int) -> None:
    cards = [Card(plain(RED), 0.9, "red"), Card(plain(GREEN), 0.5, "green", right=True), Card("a text", 0.1)]
    page = write_page(tmp_path / "page.html", [("a query", cards)], title="A title")
    image = screenshot(browser, page, width)
    assert image.width == width and pixels(image, RED) > 1000 and pixels(image, GREEN) > 1000


def test_what_looks_like_html_is_text(browser: str, tmp_path: Path) -> None:
    evil = f'<style>body {{background: rgb{RED}}}</style><script>document.body.innerHTML = ""</script>'
    page = write_page(tmp_path / "page.html", [(evil, [Card(plain(GREEN), 0.9, evil)])], title=evil)
    image = screenshot(browser, page)
    assert pixels(image, GREEN) > 1000 and pixels(image, RED) < 100
