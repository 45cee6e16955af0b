"""Folders of one sub-folder per class: what is read, and what is said about the rest."""

from pathlib import Path

import pytest

from zoo.data.sources.class_folders import class_tables
from zoo.utils.errors import DataError


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_files_and_labels_by_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "train/a/1.wav", "train/b/2.WAV", "train/b/deep/3.wav", "val/a/4.wav", "more/a/5.wav")
    tables = class_tables(tmp_path, (".wav",), "audio file")
    assert {split: table.columns["label"] for split, table in tables.items()} == {
        "train": ["a", "b", "b"],
        "test": ["a"],
    }
    assert [file.name for file in tables["train"].columns["file"]] == ["1.wav", "2.WAV", "3.wav"]
    notes = capsys.readouterr().err.replace("\n", " ")
    assert "no audio files of class b in" in notes and "not used:" in notes and "more" in notes
    write(tmp_path, "test/b/6.wav")
    tables = class_tables(tmp_path, (".wav",), "audio file")
    assert {split: table.columns["label"] for split, table in tables.items()} == {
        "train": ["a", "b", "b"], "validation": ["a"], "test": ["b"]}  # fmt: skip
    write(tmp_path, "test/c/7.wav")
    with pytest.raises(DataError, match=r"test/c: no such class in .*train"):
        class_tables(tmp_path, (".wav",), "audio file")


def test_what_is_left_out_and_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "a/1.png", "a/notes.txt", "b/2.png", "c.png")
    assert list(class_tables(tmp_path, (".png",), "image")) == ["train"]
    notes = capsys.readouterr().err.replace("\n", " ")
    assert "left out, not images by their names: 1 file (.txt)" in notes and "in no folder of a class" in notes
    (tmp_path / "b" / "2.png").rename(tmp_path / "b" / "2.txt")
    with pytest.raises(DataError, match=r"b contains no image: it holds 1 file \(\.txt\).* Images end with \.png"):
        class_tables(tmp_path, (".png",), "image")
    with pytest.raises(DataError, match="has 0 class folders, expected at least 2; expected train/ and test/"):
        class_tables(tmp_path / "a", (".png",), "image")
    with pytest.raises(DataError, match="no video in any of its sub-folders"):
        class_tables(tmp_path, (".mp4",), "video")
