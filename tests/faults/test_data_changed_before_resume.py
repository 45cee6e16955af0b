"""A run that was killed resumes on the data that it started with, or says what changed.

Each kind of data of the recipes is edited; files are added, removed, renamed, moved to another class.
"""

import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from PIL import Image
from speeds import full_unless

from zoo.data.audio.load import load_audio
from zoo.data.audio.speech import load_speech
from zoo.data.image.load import load_images
from zoo.data.pairs.audio import load_audio_pairs
from zoo.data.pairs.load import load_pairs
from zoo.data.sources import fingerprint, hub
from zoo.data.text.corpus import load_corpus
from zoo.data.text.load import load_texts
from zoo.training.config import ImageSettings
from zoo.training.recipes import config
from zoo.training.result import DatasetInfo
from zoo.training.run import Run
from zoo.training.run_dir import RunError, RunFolder

Load = Callable[[Any], Any]


def images_of(data: Any) -> Any:
    return load_images(data.name, data.data_dir, size=8 if data.data_dir is None else 32)


LOADERS: dict[str, tuple[type, Load]] = {
    "images": (ImageSettings, images_of),
    "texts": (config.FinetuneSettings, load_texts),
    "stream": (config.GPTSettings, load_corpus),
    "lines": (config.MLMSettings, load_corpus),
    "audio": (config.AudioSettings, load_audio),
    "speech": (config.CTCSettings, load_speech),
    "image pairs": (config.ClipSettings, load_pairs),
    "audio pairs": (config.ClapSettings, load_audio_pairs),
}


def start(kind: str, folder: Path, *words: str) -> Run:
    """A run that reads its data as the recipe does, opens its folder, and is killed after its first checkpoint."""
    settings, load = LOADERS[kind]
    run = Run.of("tiny", [*words, f"run_dir={folder}"], settings)
    data = load(run.config.data)
    name = getattr(data, "name", "")
    run.open(DatasetInfo(name, True, "", 1, 1))
    assert run.folder is not None
    run.folder.release()
    torch.save({"global_step": 1}, run.folder.checkpoints / "last.ckpt")
    return run


def resumes(kind: str, folder: Path, *words: str) -> bool:
    run = start(kind, folder, *words)
    assert run.folder is not None
    return run.folder.unfinished


def refusal(kind: str, folder: Path, *words: str) -> str:
    with pytest.raises(RunError) as error:
        start(kind, folder, *words)
    text = str(error.value)
    assert str(folder) in text and "Restore the data to resume it" in text and "resume=never" in text
    return text


# --- the kinds of data ------------------------------------------------------------------------------------------------


def write_image(file: Path, value: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, value, value)).save(file)


def write_clip(file: Path, value: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, np.sin(np.arange(1000) * value / 100).astype("float32"), 8000)


def image_folder(path: Path) -> str:
    for i in range(8):
        write_image(path / "ab"[i % 2] / f"{i}.bmp", 20 * i)
    return f"data={path}"


def audio_folder(path: Path) -> str:
    for i in range(8):
        write_clip(path / "ab"[i % 2] / f"{i}.wav", i + 1)
    return f"data={path}"


ROWS = [{"text": f"text {i} is here", "label": "ab"[i % 2]} for i in range(12)]


def csv_table(path: Path, separator: str = ",") -> str:
    path.mkdir()
    lines = [separator.join(row.values()) for row in [{"text": "text", "label": "label"}, *ROWS]]
    file = path / ("rows.csv" if separator == "," else "rows.tsv")
    file.write_text("\n".join(lines) + "\n")
    return f"data={file}"


def tsv_table(path: Path) -> str:
    return csv_table(path, "\t")


def jsonl_table(path: Path) -> str:
    path.mkdir()
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return f"data={path / 'rows.jsonl'}"


def parquet_table(path: Path) -> str:
    path.mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS), path / "rows.parquet", compression="none")
    return f"data={path / 'rows.parquet'}"


def text_file(path: Path) -> str:
    path.mkdir()
    (path / "story.txt").write_text("Once upon a time there was a text.\n" * 20)
    return f"data={path / 'story.txt'}"


def text_folder(path: Path) -> str:
    path.mkdir()
    for i in range(4):
        (path / f"{i}.txt").write_text(f"Story {i} is a text of its own.\n")
    return f"data={path}"


def audio_table(path: Path) -> str:
    for i in range(8):
        write_clip(path / "clips" / f"{i}.wav", i + 1)
    lines = [f"clips/{i}.wav,{'ab'[i % 2]},words of {i}" for i in range(8)]
    (path / "rows.csv").write_text("\n".join(["file,label,text", *lines]))
    return f"data={path / 'rows.csv'}"


def image_captions(path: Path) -> str:
    for i in range(12):
        write_image(path / "photos" / f"{i}.bmp", 20 * i)
    lines = [f"photos/{i}.bmp,caption of {i}" for i in range(12)]
    (path / "captions.csv").write_text("\n".join(["file,caption", *lines]))
    return f"data={path}"


def audio_captions(path: Path) -> str:
    for i in range(12):
        write_clip(path / "clips" / f"{i}.wav", i + 1)
    lines = [f"clips/{i}.wav,caption of {i}" for i in range(12)]
    (path / "captions.csv").write_text("\n".join(["file,caption", *lines]))
    return f"data={path}"


def cifar_archive(path: Path) -> str:
    (path / "cifar10").mkdir(parents=True)
    for split in ("train", "test"):
        file = path / "photo.bmp"
        write_image(file, 40)
        image = Image.open(file).resize((32, 32))
        image.save(file)
        rows = [{"img": {"bytes": file.read_bytes(), "path": None}, "label": i % 10} for i in range(20)]
        pq.write_table(pa.Table.from_pylist(rows), path / "cifar10" / f"{split}.parquet", compression="none")
        file.unlink()
    return f"data.data_dir={path}"


# (loader, what writes the data, a file that is edited)
KINDS: dict[str, tuple[str, Callable[[Path], str], str]] = {
    "image folder": ("images", image_folder, "a/0.bmp"),
    "cifar10 archive": ("images", cifar_archive, "cifar10/train.parquet"),
    "csv": ("texts", csv_table, "rows.csv"),
    "tsv": ("texts", tsv_table, "rows.tsv"),
    "jsonl": ("texts", jsonl_table, "rows.jsonl"),
    "parquet": ("texts", parquet_table, "rows.parquet"),
    "text file": ("stream", text_file, "story.txt"),
    "text folder": ("stream", text_folder, "2.txt"),
    "texts of a table": ("lines", csv_table, "rows.csv"),
    "audio folder": ("audio", audio_folder, "b/3.wav"),
    "audio table": ("audio", audio_table, "rows.csv"),
    "clip of an audio table": ("audio", audio_table, "clips/3.wav"),
    "speech": ("speech", audio_table, "rows.csv"),
    "clip of speech": ("speech", audio_table, "clips/5.wav"),
    "captions of images": ("image pairs", image_captions, "captions.csv"),
    "image with a caption": ("image pairs", image_captions, "photos/3.bmp"),
    "captions of audio": ("audio pairs", audio_captions, "captions.csv"),
    "clip with a caption": ("audio pairs", audio_captions, "clips/3.wav"),
    "audio classes": ("audio pairs", audio_folder, "a/2.wav"),
}
USUAL = ("image folder", "csv", "parquet", "text folder", "audio table", "clip of speech", "captions of images")
every_kind = pytest.mark.parametrize("name", full_unless(USUAL, KINDS))


def edit(file: Path) -> None:
    """Change the content, but neither the size nor the modification time."""
    before, content = file.stat(), bytearray(file.read_bytes())
    if b"text 3 " in content:
        at = content.find(b"text 3 ")
    elif file.suffix in (".bmp", ".wav"):
        at = len(content) - 3
    else:
        at = next(i for i in range(len(content) - 1, 0, -1) if content[i : i + 1].isalpha())
    content[at] ^= 0x20
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size and file.stat().st_mtime_ns == before.st_mtime_ns


@every_kind
def test_an_edit_of_the_same_size_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    kind, write, file = KINDS[name]
    word = write(tmp_path / "data")
    start(kind, tmp_path / "run", word)
    assert resumes(kind, tmp_path / "run", word)
    if name == "cifar10 archive":  # a label
        path = tmp_path / "data" / file
        table = pq.read_table(path).to_pylist()
        table[3]["label"] = 7
        pq.write_table(pa.Table.from_pylist(table), path, compression="none")
    elif file.endswith("captions.csv") or name in ("audio table", "speech"):
        path = tmp_path / "data" / file
        path.write_text(path.read_text()[:-1] + "9")
        if name == "audio table":
            path.write_text(path.read_text().replace("3.wav,b", "3.wav,a"))
    else:
        edit(tmp_path / "data" / file)
    assert f"1 file changed ({file})" in refusal(kind, tmp_path / "run", word)


@every_kind
def test_a_copy_elsewhere_with_other_times_resumes(name: str, tmp_path: Path) -> None:
    kind, write, _ = KINDS[name]
    word = write(tmp_path / "data")
    start(kind, tmp_path / "run", word)
    shutil.copytree(tmp_path / "data", tmp_path / "mount" / "copy", copy_function=shutil.copy)
    for file in (tmp_path / "mount").rglob("*"):
        os.utime(file, (1, 1))
    shutil.rmtree(tmp_path / "data")
    assert resumes(kind, tmp_path / "run", word.replace(str(tmp_path / "data"), str(tmp_path / "mount" / "copy")))
    assert not (tmp_path / "run-2").exists()


def another(folder: Path, file: str) -> Path:
    new = folder / file
    write_image(new, 5) if new.suffix == ".bmp" else write_clip(new, 5)
    return new


FOLDERS = ["image folder", "audio folder", "audio classes"]


@pytest.mark.parametrize("name", FOLDERS)
def test_files_that_were_added_removed_renamed_or_relabeled(name: str, tmp_path: Path) -> None:
    kind, write, example = KINDS[name]
    word, data, suffix = write(tmp_path / "data"), tmp_path / "data", Path(example).suffix
    start(kind, tmp_path / "run", word)
    new = another(data, f"a/new{suffix}")
    assert f"1 file added (a/new{suffix})" in refusal(kind, tmp_path / "run", word)
    new.unlink()
    (data / "a" / f"2{suffix}").rename(data / "b" / f"2{suffix}")
    text = refusal(kind, tmp_path / "run", word)
    assert f"1 file renamed or moved (a/2{suffix} -> b/2{suffix})" in text and "removed" not in text
    (data / "b" / f"2{suffix}").unlink()
    assert f"1 file removed (a/2{suffix})" in refusal(kind, tmp_path / "run", word)


def test_removed_clips_of_a_table_are_refused_when_they_are_skipped(tmp_path: Path) -> None:
    words = (audio_table(tmp_path / "data"), "on_error=skip")
    start("audio", tmp_path / "run", *words)
    (tmp_path / "data" / "clips" / "3.wav").unlink()
    assert "3.wav" in refusal("audio", tmp_path / "run", *words)


def test_rows_added_to_a_table_and_text_added_to_a_folder(tmp_path: Path) -> None:
    word = jsonl_table(tmp_path / "data")
    start("texts", tmp_path / "run", word)
    with open(tmp_path / "data" / "rows.jsonl", "a") as file:
        file.write(json.dumps(ROWS[0]) + "\n")
    assert "1 file changed (rows.jsonl)" in refusal("texts", tmp_path / "run", word)
    word = text_folder(tmp_path / "texts")
    start("stream", tmp_path / "other", word)
    (tmp_path / "texts" / "9.txt").write_text("one more")
    assert "1 file added (9.txt)" in refusal("stream", tmp_path / "other", word)


def test_a_test_table_beside_the_folder(tmp_path: Path) -> None:
    word, other = csv_table(tmp_path / "data"), csv_table(tmp_path / "test").partition("=")[2]
    words = (word, f"data.test={other}")
    start("texts", tmp_path / "run", *words)
    assert resumes("texts", tmp_path / "run", *words)
    edit(Path(other))
    assert "1 file changed (../rows.csv)" in refusal("texts", tmp_path / "run", *words)


def test_files_that_are_not_read_do_not_count(tmp_path: Path) -> None:
    word = image_folder(tmp_path / "data")
    start("images", tmp_path / "run", word)
    (tmp_path / "data" / "notes.txt").write_text("not an image")
    (tmp_path / "data" / "a" / ".DS_Store").write_bytes(b"")
    assert resumes("images", tmp_path / "run", word)


def test_other_data_of_the_same_folder_name_is_refused(tmp_path: Path) -> None:
    start("images", tmp_path / "run", image_folder(tmp_path / "one" / "photos"))
    word = image_folder(tmp_path / "two" / "photos")
    edit(tmp_path / "two" / "photos" / "a" / "0.bmp")
    assert "a/0.bmp" in refusal("images", tmp_path / "run", word)


def test_a_finished_run_and_a_run_without_checkpoint_are_not_affected(tmp_path: Path) -> None:
    word = image_folder(tmp_path / "data")
    run = start("images", tmp_path / "run", word)
    edit(tmp_path / "data" / "a" / "0.bmp")
    assert run.folder is not None
    run.folder.write_result({"finished": True})
    assert not resumes("images", tmp_path / "run", word)
    (tmp_path / "run-2" / "checkpoints" / "last.ckpt").unlink()
    edit(tmp_path / "data" / "b" / "1.bmp")
    assert resumes("images", tmp_path / "run", word)
    assert resumes("images", tmp_path / "run", word)  # by the fingerprint of the restart


def test_never_starts_another_run_and_must_refuses(tmp_path: Path) -> None:
    word = image_folder(tmp_path / "data")
    start("images", tmp_path / "run", word)
    edit(tmp_path / "data" / "a" / "0.bmp")
    assert "a/0.bmp" in refusal("images", tmp_path / "run", word, "resume=must")
    run = start("images", tmp_path / "run", word, "resume=never")
    assert run.folder is not None and run.folder.path.name == "run-2"


def test_many_changes_are_counted_and_a_few_are_named() -> None:
    old = {f"{i:03}.png": str(i) for i in range(300)}
    new = {name: digest + "x" for name, digest in old.items()}
    assert fingerprint.changes(old, new) == ("300 files changed (000.png, 001.png, 002.png, 003.png, 004.png, ...)")
    assert fingerprint.changes(old, dict(old)) == ""


def test_a_run_of_an_earlier_version_says_that_it_cannot_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    word = image_folder(tmp_path / "data")
    start("images", tmp_path / "run", word)
    (tmp_path / "run" / "data.sha256").unlink()
    assert resumes("images", tmp_path / "run", word)
    assert "no fingerprint of its data" in " ".join(capsys.readouterr().err.split())
    assert RunFolder(tmp_path / "run").fingerprint


def test_the_file_is_one_of_sha256sum(tmp_path: Path) -> None:
    names = ["plain.png", "a b/\u00e4.png", "back\\slash.png", "line\nbreak.png", "b\udcffad.png", "carriage\r.png"]
    stored = {name: f"{i:064x}" for i, name in enumerate(names)}
    text = fingerprint.format_fingerprint(stored)
    assert text.startswith("\\") or "\\" in text
    assert fingerprint.parse_fingerprint(text) == stored
    assert f"{0:064x}  plain.png\n" in text and f"\\{3:064x}  line\\nbreak.png\n" in text


def test_a_dataset_of_the_hub_is_compared_by_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: None
) -> None:
    rows = [dict(row) for row in ROWS]

    class Split:
        def __init__(self, chunk: int) -> None:
            self.chunk = chunk

        def with_format(self, kind: str) -> "Split":
            return self

        def __getitem__(self, part: slice) -> pa.Table:
            parts = [pa.Table.from_pylist(rows[i : i + self.chunk]) for i in range(0, len(rows), self.chunk)]
            return pa.concat_tables(parts)

    chunk = [3]
    monkeypatch.setattr(hub, "_load", lambda *args, **kwargs: {"train": Split(chunk[0])})
    word = "data=org/name"
    start("texts", tmp_path / "run", word)
    chunk[0] = 5  # the cache may store the same rows in other chunks
    assert resumes("texts", tmp_path / "run", word)
    rows[4]["label"] = "b"
    assert "hub org/name train" in refusal("texts", tmp_path / "run", word)


@pytest.fixture
def webdataset(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package, which reads the members of local tar files in their order."""

    def samples(urls: str | list[str], **options: Any) -> Iterator[dict[str, Any]]:
        for url in [urls] if isinstance(urls, str) else urls:
            found: dict[str, dict[str, Any]] = {}
            with tarfile.open(url.replace("remote://", "/")) as tar:
                for member in tar.getmembers():
                    key, _, ending = member.name.partition(".")
                    extracted = tar.extractfile(member)
                    assert extracted is not None
                    found.setdefault(key, {"__key__": key, "__url__": url})[ending] = extracted.read()
            yield from found.values()

    module = ModuleType("webdataset")
    module.WebDataset = samples  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "webdataset", module)


def write_shard(file: Path, caption: str) -> None:
    (file.parent / "x.txt").write_text(caption)
    with tarfile.open(file, "w") as tar:
        for i in range(12):
            write_image(file.parent / "x.png", 60 + i)
            for ending in ("png", "txt"):
                tar.add(file.parent / f"x.{ending}", f"{i}.{ending}")


@pytest.mark.parametrize("remote", [False, True])
def test_shards(remote: bool, tmp_path: Path, webdataset: None) -> None:
    file = tmp_path / "train.tar"
    write_shard(file, "one caption")
    word = f"data={'remote:/' if remote else ''}{file}"
    start("image pairs", tmp_path / "run", word)
    assert resumes("image pairs", tmp_path / "run", word)
    write_shard(file, "two caption")
    assert "train.tar" in refusal("image pairs", tmp_path / "run", word)
