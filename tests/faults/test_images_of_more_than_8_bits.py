"""Images of 16 bits, of 32-bit integers and of floats are scaled by their range, or refused by name."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.image.decode import decode
from zoo.preprocessing.image import ImageProcessor

RAMP = np.tile(np.linspace(0, 1, 32), (32, 1))  # from black to white
FILES = {
    "16bit.png": (RAMP * 65535).astype(np.uint16),
    "16bit.pgm": (RAMP * 65535).astype(np.uint16),
    "16bit.jp2": (RAMP * 65535).astype(np.uint16),
    "16bit.tif": (RAMP * 65535).astype(np.uint16),
    "int32.tif": (RAMP * 65535).astype(np.int32),
    "float.tif": RAMP.astype(np.float32),
}


def training(file: Path) -> torch.Tensor:
    return decode([file], lambda i: str(file), size=(32, 32)).images[0].float() / 255


def predictions(file: Path) -> torch.Tensor:
    return ImageProcessor(size=(32, 32), mean=(0.0,), std=(1.0,))(file)["pixel_values"][0]


@pytest.mark.parametrize("read", [training, predictions])
@pytest.mark.parametrize("name", FILES)
def test_values_keep_their_range(name: str, read: Callable[[Path], torch.Tensor], tmp_path: Path) -> None:
    Image.fromarray(FILES[name]).save(tmp_path / name)
    try:
        pixels = read(tmp_path / name)
    except ValueError as error:
        assert name in str(error)
    else:
        assert (pixels - torch.from_numpy(RAMP)).abs().max() < 2 / 255


@pytest.mark.parametrize("read", [training, predictions])
@pytest.mark.parametrize(("bits", "white"), [(12, 1), (16, 1), (16, 0)])
def test_tiff_files_say_their_range(
    bits: int, white: int, read: Callable[[Path], torch.Tensor], tmp_path: Path
) -> None:
    """12 bits are not 16, and a photometric interpretation of 0 means that 0 is white."""
    values = (RAMP * (2**bits - 1)).round().astype(np.uint16)
    if bits == 12:  # two values in three bytes
        first, second = values.reshape(-1, 2).T
        packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()
    else:
        packed = values.astype("<u2").tobytes()
    tags = {256: 32, 257: 32, 258: bits, 259: 1, 262: white, 273: 8, 277: 1, 278: 32, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack("<2sHI", b"II", 42, 8 + len(packed))
    (tmp_path / "image.tif").write_bytes(head + packed + struct.pack("<H", len(tags)) + entries + bytes(4))
    expected = torch.from_numpy(RAMP if white else 1 - RAMP)
    assert (read(tmp_path / "image.tif") - expected).abs().max() < 2 / 255


@pytest.mark.parametrize("high", [255.0, float("nan"), float("inf")])
def test_floats_of_another_range_are_refused(high: float, tmp_path: Path) -> None:
    file = tmp_path / "float.tif"
    values = RAMP.astype(np.float32)
    values[0, -1] = high
    Image.fromarray(values).save(file)
    for read in (training, predictions):
        with pytest.raises(ValueError, match=r"float\.tif has float values .* expected finite ones from 0 to 1"):
            read(file)


def test_images_in_memory_are_scaled_alike() -> None:
    processor = ImageProcessor(size=(32, 32), mean=(0.0,), std=(1.0,))
    made = processor(Image.fromarray(FILES["16bit.png"]))["pixel_values"][0]
    assert (made - torch.from_numpy(RAMP)).abs().max() < 2 / 255
    with pytest.raises(ValueError, match="32-bit integers"):
        processor(Image.fromarray(FILES["int32.tif"]))
