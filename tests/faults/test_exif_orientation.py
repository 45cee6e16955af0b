"""An image is read upright, as its EXIF orientation says, for training and for predictions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from zoo.data.image.decode import decode, decode_image
from zoo.interpret.plot import load_image
from zoo.preprocessing.display import open_image
from zoo.preprocessing.image import ImageProcessor
from zoo.preprocessing.image_io import read

ORIENTATION = 0x0112
# EXIF orientation -> how an upright image is stored under it.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip
every_orientation = pytest.mark.parametrize("orientation", STORED)
every_format = pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])


def turned(folder: Path, suffix: str, orientation: int) -> tuple[Path, torch.Tensor]:
    """(a file of 32 x 32 pixels with this orientation, its upright pixels [3, 32, 32])."""
    y, x = np.mgrid[:32, :32]
    upright = Image.fromarray(np.stack([7 * x, 7 * y, 4 * y], -1).astype(np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = folder / f"image.{suffix}"
    lossless = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}
    upright.transpose(STORED[orientation]).save(file, exif=exif, **lossless.get(suffix, {}))
    return file, torch.from_numpy(np.array(upright)).permute(2, 0, 1)


@every_orientation
@every_format
def test_training_reads_images_upright(suffix: str, orientation: int, tmp_path: Path) -> None:
    file, upright = turned(tmp_path, suffix, orientation)
    assert (decode_image(file).int() - upright).abs().max() <= 8
    sets = decode([file], lambda i: str(file), size=(32, 32), resize=ImageProcessor(size=(32, 32)).pixels)
    assert (sets.images[0].int() - upright).abs().max() <= 8


@every_orientation
@every_format
def test_predictions_read_images_upright(suffix: str, orientation: int, tmp_path: Path) -> None:
    file, upright = turned(tmp_path, suffix, orientation)
    processor = ImageProcessor(size=(32, 32), mean=(0.0,), std=(1.0,), rescale=1.0)
    assert (processor(file)["pixel_values"][0] - upright).abs().max() <= 8
    with Image.open(file) as opened:  # the same for an image that is open already
        assert torch.equal(processor(opened)["pixel_values"], processor(file)["pixel_values"])
    whole = processor.whole(file, 8)["pixel_values"][0]
    assert (whole - upright).abs().max() <= 8


@every_orientation
@every_format
def test_images_are_shown_upright(suffix: str, orientation: int, tmp_path: Path) -> None:
    file, upright = turned(tmp_path, suffix, orientation)
    for shown in (open_image(file), load_image(file), open_image(Image.open(file))):
        pixels = shown if isinstance(shown, torch.Tensor) else torch.from_numpy(np.array(shown)).permute(2, 0, 1)
        assert (pixels.int() - upright).abs().max() <= 8


def test_xmp_can_hold_the_orientation(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    Image.new("RGB", (8, 4)).save(tmp_path / "image.png", pnginfo=text)
    assert decode_image(tmp_path / "image.png").shape == (3, 8, 4) and read(tmp_path / "image.png").size == (4, 8)


def test_damaged_metadata_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (8, 4)).save(tmp_path / "image.png", exif=b"Exif\0\0II nothing")
    with pytest.warns(UserWarning, match=r"image\.png has damaged EXIF data"):
        assert read(tmp_path / "image.png").size == (8, 4)
