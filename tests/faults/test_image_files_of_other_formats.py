"""An image that is not read because of the ending of its name, or because of its folder, is named."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image, ImageFile, features

import zoo
from zoo.data.audio.tables import audio_folder
from zoo.data.config import CorpusSettings
from zoo.data.image.load import load_images
from zoo.data.text.corpus import load_corpus
from zoo.preprocessing.image_io import read
from zoo.utils.errors import DataError

FORMATS = {"jfif": "JPEG", "avif": "AVIF", "ico": "ICO", "jp2": "JPEG2000"}
needs = {"avif": "avif", "jp2": "jpg_2000"}  # which Pillow may have been built without


def image(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), (200, 30, 30)).save(file, format=FORMATS.get(file.suffix[1:], "PNG"))


def skip_without(suffix: str) -> None:
    if suffix in needs and not features.check(needs[suffix]):
        pytest.skip(f"Pillow was built without {needs[suffix]}")


@pytest.mark.parametrize("suffix", ["jfif", "avif", "ico", "jp2", "JPG", "txt"])
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


def test_what_an_archive_of_macos_leaves_is_not_a_class(tmp_path: Path) -> None:
    for i in range(10):
        image(tmp_path / "data" / "cat" / f"{i}.png")
        image(tmp_path / "data" / "dog" / f"{i}.png")
    (tmp_path / "data" / "__MACOSX").mkdir()
    for name in ("__MACOSX/._cat", "cat/._0.png"):
        (tmp_path / "data" / name).write_bytes(b"\x00\x05\x16\x07" + bytes(60))
    sets = load_images(str(tmp_path / "data"))
    assert sets.classes == ["cat", "dog"] and len(sets.train) + len(sets.test) == 20 and sets.notice is None


def test_files_of_a_class_that_are_no_images_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(10):
        image(tmp_path / "data" / "cat" / f"{i}.png")
        image(tmp_path / "data" / "dog" / f"{i}.png")
    image(tmp_path / "data" / "other.png")  # of no class
    for name in ("cat/notes.txt", "dog/7.cr2"):
        (tmp_path / "data" / name).write_bytes(b"something")
    load_images(str(tmp_path / "data"))
    notice = capsys.readouterr().err
    assert "2 files (.cr2, .txt)" in notice and "notes.txt" in notice and "other.png" in notice


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_without_images(split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            if (part, name) != (split, "dog"):
                image(tmp_path / part / name / "0.png")
    image(tmp_path / "unlabeled" / "0.png")
    if split == "train":
        with pytest.raises(DataError, match=r"train/dog contains no image: it is empty"):
            load_images(str(tmp_path))
    else:
        load_images(str(tmp_path))
        notice = capsys.readouterr().err.replace("\n", " ")
        assert "no images of class dog in" in notice and "unlabeled" in notice


def test_linked_folders_of_images_are_read_once(tmp_path: Path) -> None:
    for i in range(10):
        image(tmp_path / "data" / "cat" / f"{i}.png")
        image(tmp_path / "elsewhere" / f"{i}.png")
    (tmp_path / "data" / "dog").mkdir()
    (tmp_path / "data" / "dog" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "data" / "dog")
    sets = load_images(str(tmp_path / "data"))
    assert torch.bincount(torch.cat([sets.train.labels, sets.test.labels])).tolist() == [10, 10]


@pytest.mark.parametrize(
    "name", ["other.webp", "other.ico", "other.jfif", "other.avif", "other.heic", "other.cr2", "linked/other.png"]
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
    assert name.endswith(("cr2", "heic")) or len(done.items) == 2


HEIC = b"\x00\x00\x00\x18ftypheic" + bytes(40)


@pytest.mark.parametrize("name", ["photo.heic", "photo.jpg", "photo.jxl"])
def test_a_format_that_needs_a_plugin_is_named(name: str, tmp_path: Path) -> None:
    """Photos of phones are often HEIC whatever their name."""
    (tmp_path / name).write_bytes(b"\xff\x0a" + bytes(40) if name.endswith("jxl") else HEIC)
    package = "pillow-jxl-plugin" if name.endswith("jxl") else "pillow-heif"
    for source in (tmp_path / name, (tmp_path / name).read_bytes()):
        with pytest.raises(ValueError, match=f"pip install {package}"):
            read(source)


def test_a_plugin_that_is_installed_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin is a stand-in: it shows every HEIC file as a red image."""

    class Opened(ImageFile.ImageFile):
        format = "HEIC"

        def _open(self) -> None:
            self._size, self._mode = (4, 3), "RGB"
            self.tile = []

        def load(self) -> Any:
            self.im = Image.new("RGB", (4, 3), (200, 30, 30)).im
            return super().load()

    def register() -> None:
        Image.register_open("HEIC", Opened, lambda head: head[4:12] == b"ftypheic")

    monkeypatch.setattr(Image, "ID", [*Image.ID])
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    (tmp_path / "photo.heic").write_bytes(HEIC)
    assert read(tmp_path / "photo.heic").getpixel((0, 0)) == (200, 30, 30) and read(HEIC).size == (4, 3)


def test_audio_and_text_folders_count_what_they_leave_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("low", "high"):
        (tmp_path / "audio" / name).mkdir(parents=True)
        (tmp_path / "audio" / name / "0.WAV").write_bytes(b"")
    (tmp_path / "audio" / "__MACOSX").mkdir()
    (tmp_path / "audio" / "low" / "1.wma").write_bytes(b"")
    assert audio_folder(tmp_path / "audio")["train"].columns["label"] == ["high", "low"]
    assert "1 file (.wma)" in capsys.readouterr().err
    (tmp_path / "text").mkdir()
    for name in ("a.txt", "b.TXT", "c.docx"):
        (tmp_path / "text" / name).write_text(name)
    (tmp_path / "text" / "._a.txt").write_bytes(b"\x00\x05\x16\x07\xff")
    assert load_corpus(CorpusSettings(name=str(tmp_path / "text"))).texts == ["a.txt", "b.TXT"]
    assert "1 file (.docx)" in capsys.readouterr().err
