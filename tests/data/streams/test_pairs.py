"""Image-text pairs of shards: batches, captions and what is said of samples without one."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.shard_files import caption_shards, png, write_tar
from zoo.data import PairDataModule, PairDataSettings, load_pairs
from zoo.data.keyed_batches import Keys
from zoo.data.pairs.dataset import PairSplits
from zoo.data.pairs.streamed import StreamedPairs
from zoo.preprocessing.image import ImageProcessor
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.preprocessing.tokenizer_training import train
from zoo.utils.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def load(folder: Path, **options: object) -> PairSplits:
    return load_pairs(PairDataSettings(name=str(folder), **options), size=(8, 8))  # type: ignore[arg-type]


def write_parquet(folder: Path) -> Path:
    folder.mkdir()
    for number in range(2):
        shades = range(number * 20, number * 20 + 20)
        columns = {"image": [png(i) for i in shades], "caption": [[f"gray shade {i}", f"left {i}"] for i in shades]}
        pq.write_table(pa.table(columns), folder / f"train-{number}.parquet", row_group_size=6)
    return folder


@pytest.mark.parametrize("write", [caption_shards, write_parquet])
def test_batches_hold_images_with_their_captions(write, tmp_path: Path) -> None:
    sets = load(write(tmp_path / "data")).with_validation(0.2, 0)
    assert isinstance(sets.train, StreamedPairs) and len(sets.train) + len(sets.test) + len(sets.validation) == 40
    tokenizer = train("wordpiece", sets.train.some_captions(), 300, max_length=16)
    processor = MultimodalProcessor(image=ImageProcessor(size=(8, 8)), text=tokenizer)
    data = PairDataModule(sets, processor, 8, seed=1)
    for keys in list(data.batches(step=lambda: 0)):
        batch = data.train.__getitems__(keys)
        for image, ids, sides in zip(batch["pixel_values"], batch["input_ids"], batch["mirrors"], strict=True):
            assert tokenizer.decode(ids).split()[-1] == str(int(image[0, 0, 0]))
            assert bool(sides) == (write is caption_shards)
    ready = data.ready(batch, train=True)
    assert ready["pixel_values"].shape == (8, 3, 8, 8) and "mirrors" not in ready
    again = data.train.__getitems__(Keys(list(keys), keys.epoch))
    assert torch.equal(again["input_ids"], batch["input_ids"])
    later = [data.train.__getitems__(Keys(list(keys), epoch))["input_ids"] for epoch in range(6)]
    assert (write is caption_shards) == all(torch.equal(batch["input_ids"], one) for one in later)
    assert len(data.sample()["input_ids"]) == 8


def test_captions_in_json(tmp_path: Path) -> None:
    shades = {f"{i}": {"jpg": png(i), "json": json.dumps({"caption": f"shade {i}", "alt": "x"}).encode()}
              for i in range(20)}  # fmt: skip
    write_tar(tmp_path / "data" / "a.tar", shades)
    sets = load(tmp_path / "data")
    assert sets.train.captions[0][0].startswith("shade ")
    assert load(tmp_path / "data", captions="alt").train.captions[-1] == ("x",)
    with pytest.raises(DataError, match=r"a\.tar, sample .*json has no captions: expected a key said \(it has caption"):
        load(tmp_path / "data", captions="said").train.captions[0]


@pytest.mark.parametrize(("sample", "says"), [
    ({"png": b"x"}, r"sample x has no captions: expected a member txt, caption, text"),
    ({"txt": b"x"}, r"sample x has no images: expected a member png"),
    ({"png": b"x", "txt": b" "}, r"sample x, captions: no caption; add it"),
])  # fmt: skip
def test_incomplete_samples_are_named(sample: dict[str, bytes], says: str, tmp_path: Path) -> None:
    good = {f"{i}": {"png": png(i), "txt": b"text"} for i in range(9)}
    write_tar(tmp_path / "data" / "a.tar", good | {"x": sample})
    with pytest.raises(DataError, match=says):
        [list(part.captions) for part in load(tmp_path / "data").parts]


def test_options_that_do_not_apply(tmp_path: Path) -> None:
    caption_shards(tmp_path / "data")
    with pytest.raises(DataError, match=r"test=x\.csv: the shards .* have their test split in their names"):
        load(tmp_path / "data", test="x.csv")
