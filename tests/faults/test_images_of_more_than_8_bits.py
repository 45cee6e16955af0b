"""Images of 16 bits, of 32-bit integers and of floats are scaled by their range, or refused by name."""

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
    "16bit.tif": (RAMP * 65535).astype(np.uint16),
    "int32.tif": (RAMP * 65535).astype(np.int32),
    "float.tif": RAMP.astype(np.float32),
}


def training(file: Path) -> torch.Tensor:
    return decode([file], lambda i: str(file), size=(32, 32)).images[0].float() / 255


def predictions(file: Path) -> torch.Tensor:
    return ImageProcessor(size=(32, 32), mean=(0.0,), std=(1.0,))(file)["pixel_values"][0]


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the values are cut at 255: all white, or all black")
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
