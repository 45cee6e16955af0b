"""Images of shards: what is read, in which split and batch, and what is said of damaged files."""

import json
import os
import pickle
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.shard_files import image_parquet, image_shards, png, write_tar
from zoo.data import DataSettings, ImageDataModule, ImageSplits, load_images
from zoo.data.image.streamed import StreamedImages
from zoo.data.keyed_batches import Keys
from zoo.data.streams.tar_index import tar_index
from zoo.utils.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def load(folder: Path, **options: object) -> ImageSplits:
    return load_images(DataSettings(name=str(folder), size=8, **options))  # type: ignore[arg-type]


def shades(sets: ImageSplits) -> dict[str, list[int]]:
    parts = {"train": sets.train, "test": sets.test, "validation": sets.validation}
    return {name: part.images[:][:, 0, 0, 0].tolist() for name, part in parts.items() if part is not None}


@pytest.mark.parametrize("write", [image_shards, image_parquet])
def test_each_image_has_its_label_and_is_in_one_split(write, tmp_path: Path) -> None:
    sets = load(write(tmp_path / "data")).with_validation(0.2, seed=0)
    found = shades(sets)
    assert sorted(chain(*found.values())) == list(range(60)) and all(found.values()) and len(found) == 3
    assert isinstance(sets.train, StreamedImages) and sets.classes == ["0", "1", "2"]
    for part in sets.parts:
        batch = part.__getitems__(Keys(list(range(len(part))), 0))
        assert (batch["pixel_values"][:, 0, 0, 0] % 3 == batch["labels"]).all()
    again = pickle.loads(pickle.dumps(sets.train))
    assert torch.equal(again.images[3], sets.train.images[3]) and again.images[3].shape == (3, 8, 8)


def test_more_shards_leave_an_image_in_its_split(tmp_path: Path) -> None:
    before = shades(load(image_shards(tmp_path / "data", 3)).with_validation(0.2, 0))
    after = shades(load(image_shards(tmp_path / "data", 5)).with_validation(0.2, 1))
    assert len(after["train"]) > len(before["train"])
    assert all(set(before[split]) <= set(after[split]) for split in before)


def test_splits_by_folder_and_by_name(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        image_shards(tmp_path / "below" / split, 1, 6, first=10 * number)
        write_tar(tmp_path / "named" / f"cats_{split}-000.tar", {
            f"{i}": {"png": png(i), "cls": b"%d" % (i % 3)} for i in range(10 * number, 10 * number + 6)})  # fmt: skip
    image_parquet(tmp_path / "hub" / "data", 2, 6)
    for name in ("below", "named"):
        found = shades(load(tmp_path / name))
        assert found == {"train": [*range(6)], "validation": [*range(10, 16)], "test": [*range(20, 26)]}
    assert sorted(chain(*shades(load(tmp_path / "hub")).values())) == [*range(12)]
    image_shards(tmp_path / "both", 1, 6)
    image_shards(tmp_path / "both" / "test", 1, 6, first=10)
    image_shards(tmp_path / "both" / "train", 1, 6, first=20)
    found = shades(load(tmp_path / "both"))
    assert found == {"train": [*range(6), *range(20, 26)], "test": [*range(10, 16)]}


def named_parquet(file: Path, names: list[str]) -> None:
    """A parquet file of an image, as `datasets` writes it, with the class names in its schema."""
    file.parent.mkdir(parents=True, exist_ok=True)
    info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    table = pa.table({"image": [{"bytes": png(i), "path": None} for i in range(4)], "label": [0, 1, 0, 1]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), file)


def test_class_names_that_disagree_are_an_error(tmp_path: Path) -> None:
    for source, names in (("a", ["cat", "dog"]), ("b", ["dog", "cat"])):
        named_parquet(tmp_path / source / "part-0.parquet", names)
    with pytest.raises(DataError, match="b has the class names dog, cat, but those to train on are cat, dog"):
        load(tmp_path, sources=["a", "b"])
    assert load(tmp_path, sources=["a", "b"], class_names=["cat", "dog"]).classes == ["cat", "dog"]
    named_parquet(tmp_path / "a" / "part-1.parquet", ["dog", "cat"])
    with pytest.raises(DataError, match=r"part-1\.parquet and part-0\.parquet have different class names in 'label'"):
        load(tmp_path / "a")


@pytest.mark.parametrize("write", [image_shards, image_parquet])
def test_workers_and_ranks_get_the_same_batches(write, tmp_path: Path) -> None:
    sets = load(write(tmp_path / "data"), shuffle_window=16)

    def batches(workers: int = 0) -> list[dict]:
        data = ImageDataModule(sets, 10, seed=3, num_workers=workers)
        return list(data.train_dataloader())

    alone, two = batches(), batches(2)
    assert len(alone) == len(sets.train) // 10
    for one, other in zip(alone, two, strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"]) and torch.equal(one["labels"], other["labels"])
    data = ImageDataModule(sets, 10, seed=3)
    halves = [list(data.batches(step=lambda: 0, rank=rank, world=2)) for rank in range(2)]
    assert [one["index"].tolist() for one in alone] == [[*a, *b] for a, b in zip(*halves)]


def test_the_index_is_made_once_and_again_when_a_file_changes(tmp_path: Path, cache: Path) -> None:
    file = write_tar(tmp_path / "a.tar", {"x/1": {"PNG": png(1), "cls": b"0"}, "x/2": {"png": png(2), "cls": b"12"}})
    first = tar_index(file)
    (stored,) = (cache / "attention-zoo" / "shards").iterdir()
    assert [first.key(0), first.key(1)] == ["x/1", "x/2"] and first.classes.tolist() == [0, 12]
    os.utime(stored, (7, 7))
    inode = stored.stat().st_ino
    assert tar_index(file).digest == first.digest and stored.stat().st_ino == inode
    assert stored.stat().st_mtime > 7, "the time of its last use, by which files of the cache are removed"
    stored.write_bytes(b"damaged")
    assert torch.equal(tar_index(file).offsets, first.offsets)
    write_tar(file, {"x/1": {"png": png(1), "cls": b"1"}, "x/2": {"png": png(2), "cls": b"12"}})
    assert tar_index(file).digest != first.digest, "labels count"


def test_sources_are_mixed_by_weight(tmp_path: Path) -> None:
    image_shards(tmp_path / "mix" / "a", 1, 30)
    image_parquet(tmp_path / "mix" / "b", 2, 60)
    sets = load(tmp_path / "mix", sources=["a", "b"], weights=[1.0, 2.0], shuffle_window=8)
    data = ImageDataModule(sets, 12)
    counts = torch.zeros(2, dtype=torch.int64)
    first = len([one for one in sets.train.stream.rows.tolist() if one < 30])
    for epoch in range(2):
        for keys in data.batches(step=lambda epoch=epoch: epoch * data.steps_per_epoch):
            counts += torch.tensor([sum(i < first for i in keys), sum(i >= first for i in keys)])
            batch = sets.train.__getitems__(keys)
            assert batch["epoch"].shape == batch["index"].shape == (12,)
    assert counts[0] * 3 == counts.sum() and counts[0] > first, "a starts again when it ends"
    ready = data.augment(batch, seed=0, step=0, train=True)
    assert ready["pixel_values"].shape == (12, 3, 8, 8)


# --- bad input --------------------------------------------------------------------------------------------------------


def damaged(folder: Path, how: str) -> Path:
    file = image_shards(folder, 1) / "part-0.tar"
    content = bytearray(file.read_bytes())
    if how == "short":
        content = content[: 3 * 512 + 100]
    elif how == "header":
        content[8 * 512 + 20] ^= 255
        content[8 * 512 + 120] ^= 255
    elif how == "text":
        content = bytearray(b"no tar file" * 200)
    elif how == "packed":
        import gzip

        content = bytearray(gzip.compress(content))
    file.write_bytes(content)
    return folder


@pytest.mark.parametrize(("how", "says"), [
    ("short", r"part-0\.tar .*unexpected end of data.*copy or write it again"),
    ("header", r"part-0\.tar has a damaged header at byte 4,096: copy"),
    ("text", r"part-0\.tar is not a tar file"),
    ("packed", r"compressed.*unpack it \(gunzip\)"),
])  # fmt: skip
def test_damaged_tar_files_are_named(how: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        load(damaged(tmp_path / "data", how))


@pytest.mark.parametrize(("sample", "says"), [
    ({"png": b"x"}, r"a\.tar, sample 9 has no label: expected a member cls \(the file has png, cls\).*label="),
    ({"cls": b"1"}, r"a\.tar, sample 9 has no image: expected a member png"),
    ({"png": b"x", "cls": b"cat"}, r"a\.tar, sample 9, label: the label is 'cat', expected a whole number.*names="),
    ({"png": b"x", "cls": b"-1"}, "the label is '-1'"),
])  # fmt: skip
def test_bad_samples_are_named(sample: dict[str, bytes], says: str, tmp_path: Path) -> None:
    good = {f"{i}": {"png": png(i), "cls": b"%d" % (i % 2)} for i in range(9)}
    write_tar(tmp_path / "data" / "a.tar", good | {"9": sample})
    with pytest.raises(DataError, match=says):
        load(tmp_path / "data")


def test_a_broken_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    good = {f"{i}": {"png": png(i), "cls": b"%d" % (i % 2)} for i in range(9)}
    write_tar(tmp_path / "data" / "a.tar", good | {"9": {"png": b"no image", "cls": b"0"}})
    with pytest.raises(DataError, match=r"a\.tar, sample 9 .*not a readable image.*write the shard without it"):
        load(tmp_path / "data")


@pytest.mark.parametrize(("table", "says"), [
    ({"pixels": [b"x"], "label": [1]}, r"b\.parquet has no column 'image' for the image"),
    ({"image": [b"x"]}, r"b\.parquet has no column 'label' for the label.*label="),
])  # fmt: skip
def test_parquet_files_without_a_column_are_named(table: dict, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(pa.table({"image": [png(1)], "label": [0]}), folder / "a.parquet")
    pq.write_table(pa.table(table), folder / "b.parquet")
    with pytest.raises(DataError, match=says):
        load(folder)
    (folder / "b.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(DataError, match=r"b\.parquet is not a parquet file that can be read"):
        load(folder)


@pytest.mark.parametrize(("options", "says"), [
    ({"group_pattern": "(.)"}, "group_pattern= is for data in memory"),
    ({"on_error": "skip"}, "on_error=skip is for data in memory"),
    ({"sources": ["birds", "bird"]}, r"sources: .*bird is not a folder; did you mean 'birds'"),
    ({"class_names": ["x", "y"]}, "expected 0 to 1"),
])  # fmt: skip
def test_options_that_do_not_apply(options: dict, says: str, tmp_path: Path) -> None:
    image_shards(tmp_path / "data", 1)
    image_shards(tmp_path / "data" / "birds", 1)
    with pytest.raises(DataError, match=says):
        load(tmp_path / "data", **options)


def test_folders_without_shards(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="shuffle_window=9 is for folders of shards"):
        load(tmp_path, shuffle_window=9)
    with pytest.raises(ValueError, match=r"weights=\[1.0\]: expected a number for each of the 0 sources"):
        DataSettings(weights=[1.0])
    image_shards(tmp_path / "test", 1)
    with pytest.raises(DataError, match="has files of test but none to train on"):
        load(tmp_path)
