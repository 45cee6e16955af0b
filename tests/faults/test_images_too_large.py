"""An image of a few kilobytes that would fill the memory is refused by name, in training and in predictions."""

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from zoo.data.image.decode import decode
from zoo.preprocessing.image import ImageProcessor


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


@pytest.mark.xfail(strict=True, raises=pytest.fail.Exception, reason="torchvision decodes it, whatever its size")
def test_in_training(bomb: Path) -> None:
    with pytest.raises(ValueError, match=r"bomb\.png"):
        decode([bomb], lambda i: str(bomb), size=(32, 32), resize=lambda image: image[:, :32, :32])


@pytest.mark.xfail(strict=True, raises=Image.DecompressionBombError, reason="an error of Pillow, without a name")
def test_in_predictions(bomb: Path) -> None:
    with pytest.raises(ValueError, match=r"bomb\.png"):
        ImageProcessor(size=(32, 32))(bomb)
