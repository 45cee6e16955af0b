"""Datasets of the Hugging Face Hub: names, caches without a network, images, audio and captions as the hub has them."""

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from audio_files import write
from PIL import Image

from zoo.data.audio.load import load_audio
from zoo.data.audio.speech import load_speech
from zoo.data.config import (
    AudioDataSettings,
    AudioPairSettings,
    DataSettings,
    PairDataSettings,
    SpeechSettings,
    TextDataSettings,
)
from zoo.data.image.load import load_images
from zoo.data.pairs.audio import load_audio_pairs
from zoo.data.pairs.load import load_pairs
from zoo.data.sources import hub
from zoo.data.sources.hub import HubError, load_splits
from zoo.data.text.load import load_texts
from zoo.utils.errors import DataError

FINE, COARSE = ["ant", "bee", "cow"], ["insect", "mammal"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: None) -> Path:
    """Empty caches, and no network though no variable forbids it."""
    import datasets
    from huggingface_hub import constants

    home = tmp_path / "home"
    for name, folder in (("HF_DATASETS_CACHE", home / "datasets"), ("XDG_CACHE_HOME", tmp_path / "cache")):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(hub, "reachable", lambda endpoint: False)
    monkeypatch.delenv("ZOO_DATA_DIR", raising=False)
    return home


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 2 * shade, 3)).save(stream, "PNG")
    return stream.getvalue()


def images(count: int, label: bool = True) -> Any:
    """A split as `uoft-cs/cifar100` has it: encoded images, and two columns of numbered classes."""
    import datasets

    features = {"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=FINE),
                "coarse_label": datasets.ClassLabel(names=COARSE)}  # fmt: skip
    columns = {"img": [{"bytes": png(i), "path": None} for i in range(count)],
               "fine_label": [i % 3 if label else -1 for i in range(count)],
               "coarse_label": [i % 2 for i in range(count)]}  # fmt: skip
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def clips(folder: Path, count: int, **columns: list[Any]) -> Any:
    """A split of encoded audio, as the hub stores it: bytes and the name of their file."""
    import datasets

    folder.mkdir(exist_ok=True)
    files = [write(folder / f"{i}.wav", 200 + 50 * i, seconds=0.2) for i in range(count)]
    audio = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    made = datasets.Dataset.from_dict({"audio": audio, **{k: v[:count] for k, v in columns.items()}})
    return made.cast_column("audio", datasets.Audio(sampling_rate=8000, decode=False)).cast_column(
        "audio", datasets.Audio(sampling_rate=8000))  # fmt: skip


def snapshot(home: Path, name: str, **splits: Any) -> None:
    """A dataset repository with parquet files in the cache of the hub, as `hf download` leaves it."""
    repository = home / "hub" / f"datasets--{name.replace('/', '--')}"
    folder = repository / "snapshots" / ("0" * 40)
    (folder / "data").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for split, part in splits.items():
        part.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))


def prepared(home: Path, name: str, **splits: Any) -> None:
    """The same in the cache of `datasets`, as an earlier run leaves it."""
    import datasets

    source, cache = home / "source", home / "tmp"
    source.mkdir(parents=True)
    for split, part in splits.items():
        part.to_parquet(str(source / f"{split}.parquet"))
    datasets.load_dataset(str(source), cache_dir=str(cache))
    made = next(file.parent for file in cache.rglob("dataset_info.json"))
    folder = home / "datasets" / name.replace("/", "___") / "default" / "0.0.0" / made.name
    shutil.copytree(made, folder)
    for file in folder.glob("*.arrow"):
        file.rename(file.with_name(file.name.replace("source-", f"{name.rpartition('/')[2]}-")))


def test_images_with_numbered_classes(home: Path) -> None:
    snapshot(home, "uoft-cs/cifar100", train=images(12), test=images(6))
    sets = load_images(DataSettings(name="uoft-cs/cifar100", size=8))
    assert (sets.name, sets.source, sets.real) == ("uoft-cs/cifar100", "hub uoft-cs/cifar100", True)
    assert sets.classes == FINE and (len(sets.train), len(sets.test)) == (12, 6)
    assert sets.train.images[5, :, 0, 0].tolist() == [5, 10, 3] and sets.train.labels[:4].tolist() == [0, 1, 2, 0]
    assert load_images(DataSettings(name="uoft-cs/cifar100", label="coarse_label")).classes == COARSE
    with pytest.raises(DataError, match=r"label=coarse: .* has no column 'coarse'; did you mean 'coarse_label'\?"):
        load_images(DataSettings(name="uoft-cs/cifar100", label="coarse"))
    with pytest.raises(DataError, match=r"image=im: .* has no column 'im'; did you mean 'img'\? \(it has img, fine_"):
        load_images(DataSettings(name="uoft-cs/cifar100", image="im"))


def test_a_name_without_an_owner(home: Path) -> None:
    """`beans` is a dataset of the hub, which the cache has under its owner."""
    parts = {split: images(12).rename_columns({"img": "image", "fine_label": "labels"}) for split in ("train", "test")}
    prepared(home, "AI-Lab-Makerere/beans", **parts, validation=parts["test"])
    sets = load_images(DataSettings(name="beans"))
    assert (sets.name, sets.classes) == ("beans", FINE) and len(sets.validation or []) == 12
    assert len(load_images("AI-Lab-Makerere/beans").train) == 12
    snapshot(home, "org/pods", train=images(30))
    assert load_images("pods").source == "hub pods"
    snapshot(home, "other/pods", train=images(30))
    with pytest.raises(HubError, match="pods is not in the local cache"):
        load_images("pods")


def test_offline_messages_name_the_hub() -> None:
    for load, settings in ((load_images, DataSettings), (load_audio, AudioDataSettings), (load_texts, TextDataSettings),
                           (load_speech, SpeechSettings), (load_pairs, PairDataSettings)):  # fmt: skip
        for name in ("beans", "uoft-cs/cifar100"):
            with pytest.raises(
                HubError,
                match=rf"data='{name}': expected a folder or table that exists, a hub dataset "
                rf".*As a dataset of the Hugging Face Hub: {name} is not in the local cache and no",
            ):
                load(settings(name=name))  # type: ignore[operator]
    with pytest.raises(DataError, match="header=, sep= and encoding= are for your own tables"):
        load_images(DataSettings(name="org/name", sep=";"))


def test_splits_whose_labels_are_withheld(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot(home, "org/images", train=images(30), test=images(6, label=False))
    sets = load_images("org/images")
    assert (len(sets.train), len(sets.test)) == (27, 3)
    assert "no row has a label; a part of the training data is held out instead" in " ".join(
        capsys.readouterr().err.split())  # fmt: skip


def test_audio_is_decoded_by_our_reader(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchcodec and FFmpeg, which `datasets` decodes with."""
    import datasets

    monkeypatch.setattr(datasets.Audio, "decode_example", lambda *_, **__: pytest.fail("decoded by datasets"))
    label = [FINE[i % 3] for i in range(12)]
    snapshot(home, "org/words", train=clips(tmp_path / "a", 12, label=label),
             validation=clips(tmp_path / "b", 6, label=label), test=clips(tmp_path / "c", 6, label=label))  # fmt: skip
    sets = load_audio(AudioDataSettings(name="org/words"))
    assert (len(sets.train), len(sets.validation or []), len(sets.test)) == (12, 6, 6)
    assert (sets.classes, sets.sampling_rate, sets.source) == (FINE, 8000, "hub org/words")
    with pytest.raises(DataError, match=r"audio=adio: .* has no column 'adio'; did you mean 'audio'\?"):
        load_audio(AudioDataSettings(name="org/words", audio="adio"))


def test_the_only_column_with_class_names_is_the_label(home: Path, tmp_path: Path) -> None:
    import datasets

    part = clips(tmp_path / "a", 12, intent=[i % 3 for i in range(12)], lang=["en"] * 12)
    snapshot(home, "org/intents", train=part.cast_column("intent", datasets.ClassLabel(names=FINE)))
    sets = load_audio(AudioDataSettings(name="org/intents"))
    assert sets.classes == FINE and len(sets.train) == 9
    two = part.cast_column("intent", datasets.ClassLabel(names=FINE)).class_encode_column("lang")
    snapshot(home, "org/two", train=two)
    with pytest.raises(DataError, match=r"the columns audio, intent, lang: name the label column, e\.g\. label=intent"):
        load_audio(AudioDataSettings(name="org/two"))


def test_speech_and_captions(home: Path, tmp_path: Path) -> None:
    texts = [f"clip number {i}" for i in range(12)]
    snapshot(home, "org/speech", train=clips(tmp_path / "a", 12, transcription=texts), test=clips(
        tmp_path / "b", 4, transcription=texts))  # fmt: skip
    spoken = load_speech(SpeechSettings(name="org/speech"))
    assert (len(spoken.train), len(spoken.test)) == (12, 4) and sorted(spoken.train.texts()) == sorted(texts)
    snapshot(home, "org/sounds", train=clips(tmp_path / "c", 12, caption=texts))
    heard = load_audio_pairs(AudioPairSettings(name="org/sounds"))
    assert len(heard.train) + len(heard.test) == 12 and heard.train.captions[0][0].startswith("clip number")
    part = images(12).remove_columns(["fine_label", "coarse_label"]).add_column(
        "caption", [[text, text + " again"] for text in texts])  # fmt: skip
    snapshot(home, "org/captions", train=part)
    seen = load_pairs(PairDataSettings(name="org/captions"), size=(8, 8))
    assert len(seen.train) + len(seen.test) == 12 and len(seen.train.captions[0]) == 2


def test_a_snapshot_without_data_is_an_error(home: Path) -> None:
    snapshot(home, "org/empty")
    with pytest.raises(HubError, match="org/empty could not be read"):
        load_splits("org/empty")
