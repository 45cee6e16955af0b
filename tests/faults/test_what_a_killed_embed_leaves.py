"""A killed `zoo.embed` leaves nothing that stops the next one, and nothing stays behind after that one."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from kills import killed_at
from search_models import Colors, draw

from zoo.retrieval import journal
from zoo.retrieval.embed import embed

CALLS = [(os, name) for name in ("fsync", "replace", "unlink", "rmdir", "chmod", "mkdir", "truncate")]
CALLS += [(Path, "unlink"), (Path, "rmdir")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw(tmp_path / "images", 5)
    return tmp_path / "images"


def test_a_kill_at_any_step(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SECONDS", -1.0)  # everything is written at once
    options: dict[str, Any] = {"batch_size": 2, "workers": 1, "progress": False}
    whole = tmp_path / "whole.safetensors"
    embed(Colors(), folder, whole, **options)
    step = 0
    while True:
        out = tmp_path / "vectors" / "found.safetensors"
        out.parent.mkdir()
        died = killed_at(step, lambda out=out: embed(Colors(), folder, out, **options), CALLS)  # type: ignore[misc]
        embed(Colors(), folder, out, **options)
        assert out.read_bytes() == whole.read_bytes(), f"killed at step {step}"
        assert os.listdir(out.parent) == [out.name], f"left over from the kill at step {step}"
        shutil.rmtree(out.parent)
        if not died:
            break
        step += 1
    assert step > 10


@pytest.mark.parametrize("left", [
    {"lock": "", ".journal.jsonl.abcdefgh.part": "{"}, {"lock": "", "rows.bin": "rows"}, {"journal.jsonl": ""},
    {"journal.jsonl": "[1]\n[2]\n"}, {"journal.jsonl": '{"fingerprint'}, {"journal.jsonl": "\udcff\n"}, {},
    {"journal.jsonl": "SAME\n7\n", "rows.bin": ""}, {"journal.jsonl": 'SAME\n{"items": [[1]]}\n', "rows.bin": ""},
    {"journal.jsonl": 'SAME\n{"width": "x", "items": [["image", "a"]]}\n', "rows.bin": ""},
], ids=str)  # fmt: skip
def test_an_unfinished_folder_of_any_state(left: dict[str, str], folder: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.safetensors", tmp_path / "vectors" / "found.safetensors"
    done = embed(Colors(), folder, whole, progress=False)
    unfinished = out.with_name(f".{out.name}.unfinished")
    unfinished.mkdir(parents=True)
    plan = f'{{"fingerprint": "{done.fingerprint}", "dtype": "float32"}}'
    for name, text in left.items():
        (unfinished / name).write_bytes(text.replace("SAME", plan).encode("utf-8", "surrogateescape"))
    embed(Colors(), folder, out, progress=False)
    assert out.read_bytes() == whole.read_bytes() and os.listdir(out.parent) == [out.name]


def test_a_file_in_place_of_the_unfinished_folder_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / ".found.safetensors.unfinished").write_text("mine")
    with pytest.raises(ValueError, match=r"\.found\.safetensors\.unfinished is a file"):
        embed(Colors(), folder, tmp_path / "found.safetensors", progress=False)


def test_files_of_others_in_the_unfinished_folder_stay(folder: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / ".found.safetensors.unfinished"
    (unfinished / "deep").mkdir(parents=True)
    (unfinished / "notes.txt").write_text("mine")
    embed(Colors(), folder, tmp_path / "found.safetensors", progress=False)
    assert (tmp_path / "found.safetensors").is_file() and sorted(os.listdir(unfinished)) == ["deep", "notes.txt"]
