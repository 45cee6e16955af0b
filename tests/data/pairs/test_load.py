"""Pictures with captions: what is read from where, what is listed as missing, and how batches are made of them."""

import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from zoo.data.augment_config import AugmentSettings
from zoo.data.config import PairDataSettings
from zoo.data.pairs.datamodule import FamilyBatches, PairDataModule, PairRows, may_be_mirrored
from zoo.data.pairs.dataset import PairDataset, PairSplits
from zoo.data.pairs.images import ResizeAndCrop
from zoo.data.pairs.load import load_pairs
from zoo.preprocessing.image import ImageProcessor
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_training import train
from zoo.utils.errors import DataError


def load(name: Path | str, **options: object) -> PairSplits[torch.Tensor]:
    return load_pairs(PairDataSettings(name=str(name), **options), size=(16, 16))  # type: ignore[arg-type]


def png(shade: int, size: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (shade, 10, 200)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty pictures with captions beside them."""
    lines = ["file,caption"]
    for i in range(20):
        (tmp_path / f"{i}.png").write_bytes(png(i * 10))
        lines.append(f"{i}.png,a picture of shade {i}")
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    return tmp_path


def shade_of(sets: PairSplits[torch.Tensor]) -> dict[str, int]:
    return {
        captions[0]: int(picture[0, 0, 0])
        for part in (sets.train, sets.test)
        for picture, captions in zip(part.items, part.captions)
    }


def test_a_folder_with_captions(folder: Path) -> None:
    sets = load(folder)
    assert (len(sets.train), len(sets.test)) == (18, 2) and sets.real and sets.validation is None
    assert shade_of(sets) == {f"a picture of shade {i}": i * 10 for i in range(20)}
    assert shade_of(load(folder / "captions.csv")) == shade_of(sets)


def test_all_tables_say_the_same(folder: Path) -> None:
    first = shade_of(load(folder))
    rows = [{"file": f"{i}.png", "caption": f"a picture of shade {i}"} for i in range(20)]
    (folder / "captions.csv").unlink()
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert shade_of(load(folder)) == first
    (folder / "a.tsv").write_text("file\tcaption\n" + "\n".join(f"{r['file']}\t{r['caption']}" for r in rows))
    assert shade_of(load(folder / "a.tsv")) == first
    data = [{"image": {"bytes": png(i * 10), "path": None}, "text": r["caption"]} for i, r in enumerate(rows)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(data), folder / "train.parquet")
    assert shade_of(load(folder)) == first  # given parts come before a table of captions
    plain = [{"img": png(i * 10), "caption": r["caption"]} for i, r in enumerate(rows)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(plain), folder / "plain.parquet")
    assert shade_of(load(folder / "plain.parquet", images="img", captions="caption")) == first


def test_several_captions_of_a_picture(folder: Path) -> None:
    rows = [{"file": f"{i % 10}.png", "caption": [f"a {i}", f"b {i}"], "other": f"c {i}"} for i in range(20)]
    (folder / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    sets = load(folder / "t.jsonl", captions="caption,other")
    assert len(sets.train) + len(sets.test) == 10
    said = dict.fromkeys(sets.train.captions + sets.test.captions)
    assert ("a 3", "b 3", "c 3", "a 13", "b 13", "c 13") in said


def test_what_is_missing_or_broken_is_listed_all_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "3.png").unlink()
    (folder / "5.png").write_bytes(b"no picture")
    (folder / "7.png").write_bytes(png(70)[:60])
    with open(folder / "captions.csv", "a") as file:
        file.write("\n8.png,\n")  # its caption further up still holds
    with pytest.raises(DataError) as stopped:
        load(folder)
    said = str(stopped.value)
    for text in (
        "4 pairs cannot be used",
        "3.png does not exist",
        "line 7",
        "line 9",
        "is not a readable image",
        "on_error=skip",
        "line 22: no caption",
    ):
        assert text in said, said
    sets = load(folder, on_error="skip")
    assert len(sets.train) + len(sets.test) == 17 and len(sets.skipped) == 4
    assert "skipped 4 pairs" in capsys.readouterr().err.replace("\n", " ")


def test_a_held_out_part_of_broken_files_alone_is_held_out_again(tmp_path: Path) -> None:
    """One of ten pairs is held out; whichever it is, the readable ones are split."""
    rows = [f"{i}.png" for i in range(9)]
    for i, file in enumerate(rows):
        (tmp_path / file).write_bytes(png(20 * i))
    (tmp_path / "broken.png").write_bytes(b"no image")
    for place in range(10):
        files = [*rows[:place], "broken.png", *rows[place:]]
        (tmp_path / "captions.csv").write_text("file,caption\n" + "".join(f"{file},a {file}\n" for file in files))
        sets = load(tmp_path, on_error="skip")
        assert len(sets.train) + len(sets.test) == 9 and len(sets.test) == 1
        with pytest.raises(DataError, match=r"1 pairs cannot be used; .* pass on_error=skip"):
            load(tmp_path)


def test_rows_with_the_same_bytes_are_captions_of_one_image(tmp_path: Path) -> None:
    """As in datasets with a row for each caption: an image must not be both in training and in the test."""
    shades = [i // 5 for i in range(100)]
    captions = [f"shade {shade} {i}" for i, shade in enumerate(shades)]
    table = {"image": [{"bytes": png(10 * shade)} for shade in shades], "caption": captions}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "pairs.parquet")
    sets = load(tmp_path / "pairs.parquet")
    assert (len(sets.train), len(sets.test)) == (18, 2)
    found = [{caption.split()[1] for row in part.captions for caption in row} for part in (sets.train, sets.test)]
    assert not found[0] & found[1] and all(len(row) == 5 for row in sets.train.captions)


def test_pictures_are_fitted_as_the_model_does(tmp_path: Path) -> None:
    tall = Image.linear_gradient("L").resize((20, 60)).convert("RGB")
    tall.save(tmp_path / "0.png")
    tall.save(tmp_path / "1.png")
    (tmp_path / "captions.csv").write_text("file,caption\n0.png,zero\n1.png,one\n")
    preprocess = ImageProcessor(size=(16, 16), resize_to=(20, 20), fit="shortest", mean=(0.5,), std=(0.5,))
    sets = load_pairs(PairDataSettings(name=str(tmp_path), test=str(tmp_path / "captions.csv")), size=(16, 16),
                      fit=ResizeAndCrop(preprocess))  # fmt: skip
    ours = (sets.train.items[0].float() / 255 - 0.5) / 0.5
    assert torch.allclose(ours, preprocess(tall)["pixel_values"][0], atol=1e-6)


@pytest.mark.parametrize(("table", "says"), [
    ("picture_of,said\n0.png,x\n", "name the images column, e.g. images=picture_of"),
    ("file,said\n0.png,x\n", "name the captions column, e.g. captions=said"),
    ("file,caption\n", "no rows"),
    ("file,caption\nnone.png,x\n1.png,x\n", r"captions.csv, line 2: .*none.png does not exist"),
])  # fmt: skip
def test_bad_tables(folder: Path, table: str, says: str) -> None:
    (folder / "captions.csv").write_text(table)
    with pytest.raises(DataError, match=says):
        load(folder)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'emoji'"):
        load("emojis")
    with pytest.raises(DataError, match=r"expected captions\.csv"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"data_dir=.*train\.parquet does not exist"):
        load("emoji", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="mixup and cutmix"):
        PairDataSettings(augment=AugmentSettings(mixup=0.2))
    with pytest.raises(ValueError, match="at least 2"):
        PairDataSettings(batch_size=1)


def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import tarfile

    for shard, numbers in (("train-0", range(12)), ("train-1", range(12, 16)), ("test-0", range(16, 20))):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for i in numbers:
                for ending, content in (("png", png(i * 10)), ("txt", f"a picture of shade {i}".encode())):
                    info = tarfile.TarInfo(f"{i:03d}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "webdataset", None)
        with pytest.raises(DataError, match=r"pip install 'attention-zoo\[shards\]'"):
            load(str(tmp_path / "train-{0..1}.tar"))
        sets = load(tmp_path)  # a folder of shards is read piece by piece
    assert (len(sets.train), len(sets.test)) == (16, 4)
    assert shade_of(sets) == {f"a picture of shade {i}": i * 10 for i in range(20)}
    pytest.importorskip("webdataset", reason="shards by name need the extra `shards`")
    both = load(str(tmp_path / "train-{0..1}.tar"), test=str(tmp_path / "test-0.tar"))
    assert shade_of(both) == shade_of(sets)


# --- batches ----------------------------------------------------------------------------------------------------------


def pairs_of(n: int = 12, captions: int = 3, family: int = 1) -> PairDataset[torch.Tensor]:
    items = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 8, 8).contiguous()
    return PairDataset(items, [tuple(f"text {i} said {j}" for j in range(captions)) for i in range(n)], family)


def tokenizer_of(pairs: PairDataset[torch.Tensor]) -> TextProcessor:
    return train("wordpiece", [text for captions in pairs.captions for text in captions], 200, max_length=16)


def rows_of(pairs: PairDataset[torch.Tensor], seed: int | None = 0) -> PairRows:
    return PairRows(pairs, {"pixel_values": pairs.items}, tokenizer_of(pairs), seed=seed)


def texts_of(rows: PairRows, pairs: PairDataset[torch.Tensor], epoch: int) -> list[int]:
    """Which caption each thing shows."""
    return (rows.captions_of(torch.arange(len(pairs)), epoch) - rows.first).tolist()


def test_captions_are_drawn_by_key() -> None:
    pairs = pairs_of(200)
    rows = rows_of(pairs)
    first, second = texts_of(rows, pairs, 0), texts_of(rows, pairs, 1)
    assert first == texts_of(rows_of(pairs), pairs, 0) and first != second
    assert all(first.count(j) > 40 for j in range(3))
    assert texts_of(rows_of(pairs, seed=None), pairs, 5) == [0] * 200
    part = torch.tensor([7, 3, 199])
    assert torch.equal(rows.captions_of(part, 1) - rows.first[part], torch.tensor(second)[part])  # in any batch


def test_families_stay_together() -> None:
    batches = FamilyBatches(103, 8, family=4, seed=1, step=lambda: 0)
    order = batches.order(0)
    assert sorted(order.tolist()) == list(range(103)) and not torch.equal(order, batches.order(1))
    for batch in batches:
        assert all(batch[i] % 4 == 0 and batch[i : i + 4] == list(range(batch[i], batch[i] + 4)) for i in (0, 4))
    resumed = FamilyBatches(103, 8, family=4, seed=1, step=lambda: 5)
    assert list(resumed) == list(batches)[5:]


def module(pairs: PairDataset[torch.Tensor], batch_size: int = 4, **augment: object) -> PairDataModule:
    image = ImageProcessor(size=(8, 8), mean=(0.5,), std=(0.25,))
    settings = AugmentSettings(**{"crop": 0, "flip": 0.0} | augment)  # type: ignore[arg-type]
    preprocess = MultimodalProcessor(image=image, text=tokenizer_of(pairs))
    splits = PairSplits(pairs, pairs, "numbers", False, "written here")
    return PairDataModule(splits, preprocess, batch_size, augment=settings, seed=3)


def test_batches_are_what_the_model_takes() -> None:
    pairs = pairs_of()
    data = module(pairs)
    batch = next(iter(data.train_dataloader()))
    ready = data.on_after_batch_transfer(batch, 0)
    assert {"pixel_values", "input_ids", "attention_mask", "index"} <= ready.keys()
    expected = (batch["index"].float() / 255 - 0.5) / 0.25
    assert torch.allclose(ready["pixel_values"][:, 0, 0, 0], expected, atol=1e-6)
    assert data.sample()["pixel_values"].dtype == torch.float32
    assert module(pairs, 99).batch_size == len(pairs)
    with pytest.raises(ValueError, match="1 training pairs do not fill one batch of 2: add some"):
        module(pairs.take(torch.arange(1)), 99)


def test_what_speaks_of_sides_is_not_mirrored() -> None:
    captions = [("a dog", "a cat"), ("a dog", "Left of a cat."), ("a copyright",), ("turn right!",)]
    assert may_be_mirrored(PairDataset(torch.empty(4), captions)).tolist() == [True, False, True, False]
    items = torch.zeros(8, 3, 8, 8, dtype=torch.uint8)
    items[..., 0] = 255
    pairs = PairDataset(items, [("a left side",) if i % 2 else ("a side",) for i in range(8)])
    batch = rows_of(pairs).__getitems__(type("K", (list,), {"epoch": 0})(range(8)))
    ready = module(pairs, flip=1.0).prepare(batch, seed=0, step=0, train=True)["pixel_values"]
    assert (ready[::2, 0, 0, 0] < 0).all() and (ready[1::2, 0, 0, 0] > 0).all()
