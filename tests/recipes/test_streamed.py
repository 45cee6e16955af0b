"""Recipes on data that is read piece by piece: they resume bit for bit, and notice that the data has changed."""

from pathlib import Path

import pytest

from tests.data.streams.test_texts import write as write_texts
from tests.recipe_calls import RESUMED, caller, check_resumed_run, result
from tests.shard_files import caption_shards, image_shards
from zoo.training.config import ImageSettings
from zoo.training.recipes.config import ClipSettings, GPTSettings

call = caller({"vit_cifar": ImageSettings, "gpt_text": GPTSettings, "clip_pairs": ClipSettings})
SMALL = ("accelerator=cpu", "progress=false", "log_every=1", "depth=1", "width=16", "heads=2", "batch_size=8")
TOWERS = tuple(f"{tower}.{word}" for tower in ("image", "text") for word in ("depth=1", "width=16", "heads=2"))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def mixed_shards(folder: Path) -> Path:
    for number, name in enumerate("ab"):
        image_shards(folder / name, 2, 16, first=100 * number)
    return folder


@pytest.mark.parametrize(("name", "write", "words"), [
    ("vit_cifar", mixed_shards, (*SMALL, "sources=[a,b]", "weights=[1,3]", "num_workers=1")),
    ("gpt_text", lambda folder: write_texts(folder, 200), (*SMALL, "max_length=32", "sample.length=0")),
    ("clip_pairs", caption_shards, (*SMALL[:3], *TOWERS, "batch_size=8", "width=16")),
])  # fmt: skip
def test_a_run_resumes_bit_for_bit(name, write, words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "data")
    options = (f"data={data}", "shuffle_window=16", *words, *RESUMED)
    check_resumed_run(lambda folder: call(name, folder, *options), tmp_path, monkeypatch)
    found = result(tmp_path / "parts")
    assert found["real"] and found["steps"] == 6 and found["finished"]


def test_shards_that_changed_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (f"data={image_shards(tmp_path / 'data')}", *SMALL, "validate_every=2", "plots=false", "baseline=false")
    assert call("vit_cifar", tmp_path / "run", *words, "steps=4", "max_minutes=0.0001") == 0
    image_shards(tmp_path / "data", classes=2)
    capsys.readouterr()
    assert call("vit_cifar", tmp_path / "run", *words, "steps=4") == 2
    assert "part-0.tar" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "says"), [("vit_cifar", "image"), ("gpt_text", "no text file")])
def test_an_empty_folder(name: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    assert call(name, tmp_path / "run", f"data={tmp_path / 'data'}") == 2
    message = capsys.readouterr().err
    assert says in message and str(tmp_path / "data") in message
