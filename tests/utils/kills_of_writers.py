"""Processes that are killed while they write. test_atomic.py runs this file in a process of its own."""

import os
from functools import partial
from pathlib import Path

import pytest
from kills import killed_at
from written_folders import prepared, put, text_of, texts, whole, write

from zoo.utils import atomic
from zoo.utils.atomic import read_folder
from zoo.utils.errors import LoadError

CALLS = [(os, name) for name in ("fsync", "link", "replace", "unlink", "rmdir", "chmod", "mkdir", "utime")]
CALLS += [(atomic, "_exchange")]


def test_a_kill_at_any_step_leaves_one_version(tmp_path: Path) -> None:
    seen, step = [], 0
    while True:
        folder = tmp_path / str(step) / "model"
        folder.parent.mkdir()
        prepared(folder)
        died = killed_at(step, lambda folder=folder: write(folder, "after"), CALLS)  # type: ignore[misc]
        found = texts(folder)
        assert found.pop("notes.txt") == "before"
        assert found in (whole("before"), whole("after")), f"killed at step {step}"
        seen.append(found["a"])
        write(folder, "later")
        assert os.listdir(folder.parent) == ["model"], f"left over from the kill at step {step}"
        assert texts(folder) == whole("later") | {"notes.txt": "before"}
        if not died:
            break
        step += 1
    assert step > 10 and set(seen) == {"before", "after"} and seen == sorted(seen, reverse=True)


def test_a_kill_where_folders_cannot_be_exchanged_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on network file systems: a mixture of two versions is refused until the next save."""
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    monkeypatch.setattr(atomic, "PAUSE", 0)
    states, step = set(), 0
    while True:
        folder = tmp_path / str(step) / "model"
        folder.parent.mkdir()
        prepared(folder)
        died = killed_at(step, lambda folder=folder: write(folder, "after"), CALLS)  # type: ignore[misc]
        try:
            found = read_folder(folder, lambda folder=folder: texts(folder))  # type: ignore[misc]
        except LoadError as error:
            assert "files of two models" in str(error) and "save the model again" in str(error)
            states.add("refused")
        else:
            assert found.pop("notes.txt") == "before" and found in (whole("before"), whole("after"))
            states.add(found["a"])
        write(folder, "later")
        assert os.listdir(folder.parent) == ["model"] and texts(folder) == whole("later") | {"notes.txt": "before"}
        if not died:
            break
        step += 1
    assert states == {"before", "refused", "after"}


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("kinds", ["file file", "file folder", "folder file", "folder folder"])
def test_a_kill_leaves_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: str, exchanges: bool
) -> None:
    """And the next one takes its place."""
    old, new = kinds.split()
    if not exchanges:
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    places = [(os, "replace"), (atomic, "_exchange"), (atomic, "remove"), (atomic, "sync")]
    for step in range(20):
        place = tmp_path / str(step)
        place.mkdir()
        path, made = put(place / "last", "old", old), put(place / "new", "new", new)
        killed = killed_at(step, partial(atomic.replace_whole, made, path), places)
        found = atomic.find_whole(path)
        assert found is not None and text_of(found) == "new" if not killed else text_of(found) in ("old", "new")
        atomic.remove(place / "new")
        atomic.replace_whole(put(place / "new", "next", new), path)
        assert text_of(path) == "next" and [entry.name for entry in place.iterdir()] == ["last"]
        if not killed:
            break
    assert not killed and step > 2
