"""Reading images: the order of sources, folders, parquet, broken files, the cache, being offline."""

import io
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from zoo.data import DataError, load_images
from zoo.data.image import decode as decoding
from zoo.data.image.decode import decode_image
from zoo.data.sources import hub
from zoo.data.sources.dataset_cards import load_card
from zoo.data.sources.hub import HubError, load_splits, reachable

CLASSES = list(load_card("cifar10").labels)
REAL = Path(os.environ.get("ZOO_DATA_DIR", "")) / load_card("cifar10").files["test"]  # read before `alone` hides it


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: None) -> None:
    """No data of this machine, no network though no variable forbids it, an own cache."""
    monkeypatch.delenv("ZOO_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "reachable", lambda endpoint: False)
    monkeypatch.setattr(hub, "_cached", lambda name: False)


def encoded(number: int, size: tuple[int, int] = (32, 32), kind: str = "PNG") -> bytes:
    """A picture whose pixels are all (number, 2 * number, 100)."""
    stream = io.BytesIO()
    Image.new("RGB", size, (number % 256, 2 * number % 256, 100)).save(stream, kind)
    return stream.getvalue()


def table(
    blobs: list[bytes], labels: list[Any], columns: tuple[str, str] = ("img", "label"), names: bool = True
) -> pa.Table:
    images = pa.array(
        [{"bytes": blob, "path": None} for blob in blobs], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    made = pa.table({columns[0]: images, columns[1]: labels})
    features = {columns[1]: {"names": CLASSES, "_type": "ClassLabel"}}
    return (
        made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}) if names else made
    )


def cifar(folder: Path, train: int = 30, test: int = 10) -> Path:
    (folder / "cifar10").mkdir(parents=True)
    for split, count in (("train", train), ("test", test)):
        rows = [encoded(i) for i in range(count)]
        pq.write_table(table(rows, [i % 10 for i in range(count)]), folder / "cifar10" / f"{split}.parquet")
    return folder


def class_folders(root: Path, counts: dict[str, int], kind: str = "png", size: tuple[int, int] = (40, 50)) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i:02}.{kind}").write_bytes(encoded(i, size, {"jpg": "JPEG"}.get(kind, kind.upper())))
    return root


# --- sources ------------------------------------------------------------------------------------------------------


def test_local_parquet_by_option_and_by_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = load_images("cifar10", cifar(tmp_path / "a"))
    assert sets.real and sets.name == "cifar10" and sets.notice is None and sets.classes == CLASSES
    assert sets.train.images.shape == (30, 3, 32, 32) and sets.test.labels.tolist() == list(range(10))
    assert sets.train.images[7, :, 0, 0].tolist() == [7, 14, 100]
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path / "a"))
    assert load_images().source.startswith(str(tmp_path / "a"))


def test_the_option_goes_before_the_variable_and_must_hold_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_DATA_DIR", str(cifar(tmp_path / "a")))
    assert len(load_images("cifar10", cifar(tmp_path / "b", train=20)).train) == 20
    with pytest.raises(DataError, match=r"train\.parquet does not exist.*ZOO_DATA_DIR.*data=synthetic"):
        load_images("auto", tmp_path)


def test_auto_takes_the_hub_before_the_embedded_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def splits(name: str) -> dict[str, Any]:
        assert name == "uoft-cs/cifar10"
        part = datasets.Dataset(table([encoded(i) for i in range(20)], [i % 10 for i in range(20)]))
        return {"train": part, "test": part}

    monkeypatch.setattr(hub, "_load", splits)
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path))  # set, but without this data set
    sets = load_images()
    assert sets.source == "hub uoft-cs/cifar10" and sets.real and len(sets.train) == 20


def test_auto_falls_back_to_the_embedded_set_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    sets = load_images(max_train_samples=50, max_test_samples=20)
    said = capsys.readouterr().err
    assert "synthetic data instead of CIFAR-10" in said and "no connection" in said
    assert not sets.real and sets.name == "synthetic"
    assert sets.train.labels.bincount().tolist() == [5] * 10 and len(sets.test) == 20


def test_a_named_set_that_is_not_to_be_had_is_an_error() -> None:
    with pytest.raises(HubError, match=r"no connection.*ZOO_DATA_DIR.*data=synthetic"):
        load_images("cifar10")
    with pytest.raises(DataError, match="did you mean 'cifar10'"):
        load_images("cifra10")


def test_hf_hub_offline_is_honored(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "reachable", lambda endpoint: pytest.fail("used the network"))
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        load_splits("uoft-cs/cifar10")


def test_offline_with_a_cache_reads_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def cached(name: str) -> dict[str, datasets.Dataset]:
        assert datasets.config.HF_HUB_OFFLINE
        return {"train": datasets.Dataset(table([encoded(1)], [3]))}

    monkeypatch.setattr(hub, "_cached", lambda name: True)
    monkeypatch.setattr(datasets, "load_dataset", cached)
    assert load_splits("uoft-cs/cifar10")["train"].num_rows == 1
    assert not datasets.config.HF_HUB_OFFLINE


def test_a_failing_hub_is_a_hub_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def broken(name: str) -> None:
        raise RuntimeError("half a file")

    monkeypatch.setattr(hub, "reachable", lambda endpoint: True)
    monkeypatch.setattr(datasets, "load_dataset", broken)
    with pytest.raises(HubError, match="RuntimeError: half a file"):
        load_splits("uoft-cs/cifar10")


def test_reachable_connects_once_and_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reachable(f"http://127.0.0.1:{port}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", "")
        assert reachable("http://example.invalid")  # by way of the proxy
        monkeypatch.delenv("http_proxy")
    assert not reachable(f"http://127.0.0.1:{port}") and not reachable("no address")

    finished = threading.Event()

    def hanging(address: tuple[str, int], timeout: float) -> None:
        finished.wait()
        raise OSError

    monkeypatch.setattr(socket, "create_connection", hanging)
    started = time.monotonic()
    assert not reachable("http://127.0.0.1", timeout=0.1)
    assert time.monotonic() - started < 2
    finished.set()


# --- folders of one's own -----------------------------------------------------------------------------------------


def test_class_folders_are_split_by_seed(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "pets", {"cat": 20, "dog": 30}, kind="jpg")
    sets = load_images(str(root), size=24)
    assert sets.name == "pets" and sets.real and sets.classes == ["cat", "dog"]
    assert sets.train.images.shape == (45, 3, 24, 24) and sets.test.labels.bincount().tolist() == [2, 3]
    again = load_images(str(root), size=24)
    assert torch.equal(sets.test.images, again.test.images)
    pixels = sets.train.images / 255
    assert torch.allclose(torch.tensor(sets.mean), pixels.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(torch.tensor(sets.std), pixels.std((0, 2, 3)).clamp(min=1 / 255), atol=1e-3)


def test_train_and_test_folders(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"a": 3, "b": 4})
    class_folders(tmp_path / "val", {"b": 2})
    sets = load_images(str(tmp_path))
    assert len(sets.train) == 7 and sets.test.labels.tolist() == [1, 1]
    class_folders(tmp_path / "val" / "c", {"x": 1})
    with pytest.raises(DataError, match="no such class"):
        load_images(str(tmp_path))


def test_parquet_files_with_names_or_plain_values(tmp_path: Path) -> None:
    for split, count in (("train", 20), ("test", 10)):
        words = [("cat", "dog")[i % 2] for i in range(count)]
        pq.write_table(
            table([encoded(i) for i in range(count)], words, ("image", "label"), names=False),
            tmp_path / f"{split}.parquet",
        )
    sets = load_images(str(tmp_path))
    assert sets.classes == ["cat", "dog"] and sets.train.labels[:3].tolist() == [0, 1, 0]
    other = table([encoded(i) for i in range(10)], ["cat", "fox"] * 5, ("image", "label"), names=False)
    pq.write_table(other, tmp_path / "test.parquet")
    with pytest.raises(DataError, match=r"classes of train and test differ.*'dog'.*'fox'"):
        load_images(str(tmp_path))
    pq.write_table(pa.table({"picture": [b""]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"name the image column, e\.g\. image=picture$"):
        load_images(str(tmp_path))


def test_a_table_of_file_names_is_split(tmp_path: Path) -> None:
    """As for texts and audio: a table alone, whose paths are relative to it, of which 10 % of each class are tested."""
    class_folders(tmp_path, {"cat": 10, "dog": 20})
    rows = [f"{name}/{i:02}.png,{name}" for name, count in (("cat", 10), ("dog", 20)) for i in range(count)]
    file = tmp_path / "rows.csv"
    file.write_text("\n".join(["file_name,label", *rows]))
    sets = load_images(str(file), size=8)
    assert (sets.name, sets.classes, sets.card) == ("rows.csv", ["cat", "dog"], None)
    assert sets.train.labels.bincount().tolist() == [9, 18] and sets.test.labels.bincount().tolist() == [1, 2]
    assert sets.train.images.shape[1:] == (3, 8, 8) and sets.train.images[0, 0, 0, 0] in (0, 1)
    assert sets.mean[2] == pytest.approx(100 / 255)
    folder = tmp_path / "split"
    folder.mkdir()
    for split in ("train", "val"):
        images = [encoded(i) for i in range(6)]
        pq.write_table(table(images, [i % 3 for i in range(6)], ("image", "fine_label")), folder / f"{split}.parquet")
    sets = load_images(str(folder))
    assert (len(sets.train), sets.validation, len(sets.test), sets.classes) == (6, None, 6, CLASSES)
    (folder / "test.parquet").write_bytes((folder / "val.parquet").read_bytes())
    sets = load_images(str(folder))
    assert len(sets.validation or []) == 6 and sets.with_validation(0.5, 0).train is sets.train
    (tmp_path / "cat" / "03.png").unlink()
    with pytest.raises(DataError, match=r"rows\.csv, line 5"):
        load_images(str(file), size=8)


def test_folders_that_hold_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected train/ and test/"):
        load_images(str(tmp_path))
    class_folders(tmp_path, {"a": 1, "b": 1})
    with pytest.raises(DataError, match="single image"):
        load_images(str(tmp_path))
    for file in tmp_path.rglob("*.png"):
        file.unlink()
    with pytest.raises(DataError, match="no image in any"):
        load_images(str(tmp_path))


# --- broken images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_a_broken_file_is_named_and_can_be_skipped(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = class_folders(tmp_path / "pets", {"cat": 12, "dog": 12}, kind=kind)
    victim = root / "dog" / f"05.{kind}"
    victim.write_bytes(victim.read_bytes()[:-30])
    with pytest.raises(DataError, match=rf"dog/05\.{kind}.*on_error=skip"):
        load_images(str(root))
    sets = load_images(str(root), on_error="skip")
    assert len(sets.train) + len(sets.test) == 23
    assert f"05.{kind}" in capsys.readouterr().err
    assert sum(label == 1 for label in sets.train.labels.tolist() + sets.test.labels.tolist()) == 11


def test_a_broken_row_is_named_and_labels_stay_with_their_images(tmp_path: Path) -> None:
    cifar(tmp_path)
    blobs = [encoded(i) for i in range(30)]
    blobs[4], blobs[9] = b"no picture", encoded(9, (16, 16))
    pq.write_table(table(blobs, [i % 10 for i in range(30)]), tmp_path / "cifar10" / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet, row 4"):
        load_images("auto", tmp_path)  # a broken file is no reason to train on something else
    sets = load_images("cifar10", tmp_path, on_error="skip")
    assert len(sets.train) == 28 and "16 x 16 pixels, expected 32 x 32" in sets.train.broken[1]
    assert torch.equal(sets.train.images[:, 0, 0, 0].long() % 10, sets.train.labels)


def test_damaged_parquet_and_wrong_labels(tmp_path: Path) -> None:
    file = cifar(tmp_path) / "cifar10" / "test.parquet"
    pq.write_table(table([encoded(0), encoded(1)], [0, 10]), file)
    with pytest.raises(DataError, match=r"row 1: label 10, expected 0 to 9"):
        load_images("cifar10", tmp_path)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=r"test\.parquet is damaged"):
        load_images("cifar10", tmp_path)
    pq.write_table(pa.table({"picture": [b""]}), file)
    with pytest.raises(DataError, match="no column 'img'"):
        load_images("cifar10", tmp_path)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_any_kind_of_picture_becomes_rgb(mode: str) -> None:
    stream = io.BytesIO()
    Image.new(mode, (6, 5)).save(stream, "JPEG" if mode == "CMYK" else "PNG")
    image = decode_image(stream.getvalue())
    assert image.shape == (3, 5, 6) and image.dtype == torch.uint8


def test_a_turned_photo_stands_upright() -> None:
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (8, 4)).save(stream, "JPEG", exif=exif)
    assert decode_image(stream.getvalue()).shape == (3, 8, 4)


# --- the cache ----------------------------------------------------------------------------------------------------


def test_slow_decoding_is_kept_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = class_folders(tmp_path / "pets", {"cat": 6, "dog": 6})
    monkeypatch.setattr(decoding, "SLOW", -1.0)
    first = load_images(str(root))
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode_all", lambda *args, **options: pytest.fail("decoded again"))
        assert torch.equal(load_images(str(root)).train.images, first.train.images)
    for stored in (tmp_path / "cache").rglob("*.safetensors"):
        stored.write_bytes(b"damaged")
    assert torch.equal(load_images(str(root)).train.images, first.train.images)
    for file in (root / "cat").iterdir():
        file.write_bytes(encoded(200, (40, 50)))
        os.utime(file, (1, 1))
    assert not torch.equal(load_images(str(root)).train.images, first.train.images)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = class_folders(tmp_path / "pets", {"cat": 6, "dog": 6})
    monkeypatch.setattr(decoding, "SLOW", -1.0)
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.warns(UserWarning, match="could not be cached"):
        assert len(load_images(str(root)).train) == 10


# --- real files ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_file(), reason="ZOO_DATA_DIR names no folder with cifar10/test.parquet")
def test_real_cifar10(tmp_path: Path) -> None:
    card = load_card("cifar10")
    (tmp_path / "cifar10").mkdir()
    for split in ("train", "test"):
        (tmp_path / "cifar10" / f"{split}.parquet").symlink_to(REAL)
    test = load_images("cifar10", tmp_path).test
    assert test.images.shape == (10_000, 3, 32, 32) and test.labels.bincount().tolist() == [1000] * 10
    assert ((test.images / 255).mean((0, 2, 3)) - torch.tensor(card.mean)).abs().max() < 0.01
