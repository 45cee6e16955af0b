"""An image that is not read because of the ending of its name, or because of its folder, is named."""

from pathlib import Path

import pytest
import torch
from PIL import Image, features

import zoo
from zoo.data.image.load import load_images
from zoo.utils.errors import DataError

FORMATS = {"jfif": "JPEG", "avif": "AVIF", "ico": "ICO", "jp2": "JPEG2000"}
needs = {"avif": "avif", "jp2": "jpg_2000"}  # which Pillow may have been built without


def image(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), (200, 30, 30)).save(file, format=FORMATS.get(file.suffix[1:], "PNG"))


def skip_without(suffix: str) -> None:
    if suffix in needs and not features.check(needs[suffix]):
        pytest.skip(f"Pillow was built without {needs[suffix]}")


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the class has no images, and nothing names it")
@pytest.mark.parametrize("suffix", ["jfif", "avif"])
def test_a_class_of_another_format(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skip_without(suffix)
    for i in range(10):
        image(tmp_path / "data" / "cat" / f"{i}.png")
        image(tmp_path / "data" / "dog" / f"{i}.{suffix}")
    try:
        sets = load_images(str(tmp_path / "data"))
    except DataError as error:
        assert "dog" in str(error)
    else:
        counts = torch.bincount(sets.train.labels, minlength=2).tolist()
        assert counts[sets.classes.index("dog")] > 0 or "dog" in f"{sets.notice} {capsys.readouterr()}"


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="it becomes a class without images")
def test_what_an_archive_of_macos_leaves_is_not_a_class(tmp_path: Path) -> None:
    for i in range(10):
        image(tmp_path / "data" / "cat" / f"{i}.png")
        image(tmp_path / "data" / "dog" / f"{i}.png")
    (tmp_path / "data" / "__MACOSX").mkdir()
    (tmp_path / "data" / "__MACOSX" / "._cat").write_bytes(b"\x00\x05\x16\x07" + bytes(60))
    assert load_images(str(tmp_path / "data")).classes == ["cat", "dog"]


@pytest.mark.parametrize(
    "name",
    [
        "other.webp",
        *(
            pytest.param(name, marks=pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason))
            for name, reason in (
                ("other.ico", "files that end so are left out without a notice"),
                ("other.jfif", "files that end so are left out without a notice"),
                ("other.avif", "files that end so are left out without a notice"),
                ("other.heic", "files that end so are left out without a notice"),
                ("linked/other.png", "linked folders are left out without a notice"),
            )
        ),
    ],
)
def test_embed_takes_or_names_every_image(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skip_without(Path(name).suffix[1:])
    image(tmp_path / "images" / "first.png")
    if name.startswith("linked"):
        image(tmp_path / "elsewhere" / "other.png")
        (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere")
    elif name.endswith("heic"):  # Pillow cannot write it
        (tmp_path / "images" / name).write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(40))
    else:
        image(tmp_path / "images" / name)
    model = zoo.create_model("vit_cifar_tiny", width=16, depth=1, heads=2, head="pool", seed=0).eval()
    done = zoo.embed(model, tmp_path / "images", tmp_path / "out.safetensors", on_error="skip", progress=False)
    printed = capsys.readouterr()
    assert Path(name).parts[0] in " ".join([*(item.name for item in done.items), *done.broken, *printed])
