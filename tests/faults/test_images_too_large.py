"""An image of a few kilobytes that would fill the memory is refused by name, in training and in predictions."""

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

import zoo
from zoo.data.config import PairDataSettings
from zoo.data.image.decode import decode
from zoo.data.pairs.load import load_pairs
from zoo.interpret.plot import load_image
from zoo.preprocessing.display import image_html, open_image
from zoo.preprocessing.image import ImageProcessor
from zoo.utils.errors import DataError


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG of 20,000 x 9,500 black pixels."""
    width, height = 20_000, 9_500

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(bytes(1 + width // 8) * height, 1)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    file = tmp_path_factory.mktemp("images") / "bomb.png"
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )  # fmt: skip
    assert file.stat().st_size < 200_000
    return file


def test_in_training(bomb: Path) -> None:
    with pytest.raises(ValueError, match=r"bomb\.png"):
        decode([bomb], lambda i: str(bomb), size=(32, 32), resize=ImageProcessor(size=(32, 32)).pixels)


def test_in_predictions(bomb: Path) -> None:
    with pytest.raises(ValueError, match=r"bomb\.png"):
        ImageProcessor(size=(32, 32))(bomb)


def test_without_resizing(bomb: Path) -> None:
    with pytest.raises(ValueError, match=r"bomb\.png"):
        decode([bomb], lambda i: str(bomb), size=(32, 32))


def test_in_plots_and_pages(bomb: Path) -> None:
    for show in (open_image, load_image, lambda file: image_html(file, "")):
        with pytest.raises(ValueError, match=r"bomb\.png"):
            show(bomb)


def test_in_embeddings_and_search(bomb: Path, tmp_path: Path) -> None:
    model = zoo.create_model("vit_cifar_tiny", width=16, depth=1, heads=2, head="pool", seed=0).eval()
    Image.new("RGB", (32, 32)).save(tmp_path / "small.png")
    done = zoo.embed(model, [tmp_path / "small.png", bomb], tmp_path / "out.safetensors", on_error="skip",
                     progress=False)  # fmt: skip
    assert len(done.items) == 1 and "bomb.png" in done.broken[0]
    with pytest.raises(ValueError, match=r"bomb\.png"):
        zoo.search(model, done, bomb)


def test_in_data_of_pairs(bomb: Path, tmp_path: Path) -> None:
    rows = "".join(f"{bomb},one\n" for _ in range(12))
    (tmp_path / "captions.csv").write_text(f"file,caption\n{rows}")
    with pytest.raises(DataError, match=r"bomb\.png"):
        load_pairs(PairDataSettings(name=str(tmp_path), test=str(tmp_path / "captions.csv")))


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_images_that_resizing_would_make_large(size: tuple[int, int], tmp_path: Path) -> None:
    file = tmp_path / "line.png"
    Image.new("L", size).save(file)
    for backend in ("pil", "tensor"):
        with pytest.raises(ValueError, match=r"line\.png.* limit"):
            ImageProcessor(size=(224, 224), backend=backend)(file)
        longest = ImageProcessor(size=(224, 224), fit="longest", backend=backend)
        assert longest(file)["pixel_values"].shape == (1, 3, 224, 224)


def test_more_images_than_fit_into_memory(tmp_path: Path) -> None:
    file = tmp_path / "small.png"
    Image.new("RGB", (4, 4)).save(file)
    with pytest.raises(DataError, match=r"10,000 images of 60000 x 60000 pixels take .* GB of memory: use fewer"):
        decode([file] * 10_000, lambda i: str(file), size=(60_000, 60_000))
