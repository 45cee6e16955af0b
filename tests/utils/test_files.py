import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from zoo.utils.errors import LoadError
from zoo.utils.files import atomic_folder, open_tensors, read_json, read_pickle, write_atomic

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.float16)}


class Exploit:
    def __reduce__(self):
        return os.system, ("echo pwned > pwned",)


def same(tensors):
    assert {name: tensors[name].tolist() for name in tensors} == {name: t.tolist() for name, t in TENSORS.items()}
    return True


def shard(folder, save, suffix):
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    files = {name: f"{stem}-0000{i}-of-00002.{suffix}" for i, name in enumerate(TENSORS, 1)}
    for name, file in files.items():
        save({name: TENSORS[name]}, folder / file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return files


def legacy(tensors, path):
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save, name", [
    (save_file, "model.safetensors"), (torch.save, "pytorch_model.bin"), (legacy, "pytorch_model.bin"),
    (save_file, "open_clip_model.safetensors"),
])  # fmt: skip
def test_reads_every_kind_of_file(tmp_path, save, name):
    save(TENSORS, tmp_path / name)
    assert same(open_tensors(tmp_path)) and same(open_tensors(tmp_path / name))


@pytest.mark.parametrize("save, suffix", [(save_file, "safetensors"), (torch.save, "bin")])
def test_reads_shards(tmp_path, save, suffix):
    shard(tmp_path, save, suffix)
    assert same(open_tensors(tmp_path))


def test_safetensors_come_before_pickles(tmp_path):
    torch.save({"old": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert same(open_tensors(tmp_path))


def test_tensors_are_mapped_not_copied(tmp_path):
    save_file({"big": torch.ones(1 << 24)}, tmp_path / "model.safetensors")
    torch.save({"big": torch.ones(1 << 24)}, tmp_path / "pytorch_model.bin")
    for name in ("model.safetensors", "pytorch_model.bin"):
        before = _resident()
        tensor = open_tensors(tmp_path / name)["big"]
        assert _resident() - before < 16, f"{name}: reading 64 MB took memory before it was used"
        tensor += 1  # private pages: the file stays as it is
        assert open_tensors(tmp_path / name)["big"][0] == 1


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_damaged_files_are_named(tmp_path):
    good = tmp_path / "good.safetensors"
    save_file(TENSORS, good)
    pickled = tmp_path / "good.bin"
    torch.save(TENSORS, pickled)
    for name, content in {
        "truncated.safetensors": good.read_bytes()[:-8],
        "garbage.safetensors": b"\x00garbage" * 20,
        "empty.safetensors": b"",
        "truncated.bin": pickled.read_bytes()[:300],
        "garbage.bin": b"garbage" * 20,
        "empty.bin": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LoadError, match=name):
            open_tensors(tmp_path / name)["b"]


@pytest.mark.parametrize("save", [torch.save, legacy])
def test_a_pickle_with_code_raises_and_is_not_run(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    save({"a": Exploit()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(LoadError, match=r"pytorch_model\.bin .*code"):
        open_tensors(tmp_path)
    assert not Path("pwned").exists()


def test_missing_tensors_are_named(tmp_path):
    with pytest.raises(LoadError, match="no weights"):
        open_tensors(tmp_path)
    with pytest.raises(LoadError, match=r"nowhere\.safetensors does not exist"):
        open_tensors(tmp_path / "nowhere.safetensors")
    files = shard(tmp_path, save_file, "safetensors")
    second = tmp_path / files["b"]
    save_file({"c": torch.ones(1)}, second)
    with pytest.raises(LoadError, match=r"lists 'b' in model-00002"):
        open_tensors(tmp_path)
    second.unlink()
    with pytest.raises(LoadError, match="lists the shard model-00002"):
        open_tensors(tmp_path)


@pytest.mark.parametrize("text, reason", [("{oops", "JSON"), ("[1]", "list"), (b"\xff\xfe\x00", "UTF-8")])
def test_bad_json_is_named(tmp_path, text, reason):
    file = tmp_path / "config.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LoadError, match=f"config.json.*{reason}"):
        read_json(file)
    with pytest.raises(LoadError, match="does not exist"):
        read_json(tmp_path / "none.json")


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("content", ["new", b"new", lambda path: path.write_text("new")])
def test_a_file_is_replaced_whole(tmp_path, content):
    file = tmp_path / "deep" / "file.txt"
    write_atomic(file, "old")
    write_atomic(file, content)
    assert file.read_text() == "new" and os.listdir(file.parent) == ["file.txt"]
    assert file.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    os.umask(mask := os.umask(0))
    return mask


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_whole(tmp_path, monkeypatch, step):
    write_atomic(tmp_path / "file.txt", "old")
    if step != "write":
        monkeypatch.setattr(os, step, full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "file.txt", full_disk if step == "write" else "new")
    assert os.listdir(tmp_path) == ["file.txt"] and (tmp_path / "file.txt").read_text() == "old"


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(OSError, match="No space"), atomic_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text("{}")
        full_disk()
    assert os.listdir(tmp_path) == []
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text("{}")
        assert not (tmp_path / "model").exists()
    assert os.listdir(tmp_path) == ["model"] and os.listdir(tmp_path / "model") == ["config.json"]


def test_a_folder_is_replaced_and_other_files_stay(tmp_path):
    old = tmp_path / "model"
    old.mkdir()
    for name in ("config.json", "model.safetensors", "golden.safetensors", "notes.txt"):
        (old / name).write_text("old")
    with pytest.raises(OSError, match="No space"), atomic_folder(old, owns=("*.safetensors",)) as folder:
        (folder / "config.json").write_text("new")
        full_disk()
    assert {file.name: file.read_text() for file in old.iterdir()} == dict.fromkeys(
        ("config.json", "model.safetensors", "golden.safetensors", "notes.txt"), "old"
    )
    with atomic_folder(old, owns=("*.safetensors", "config.json")) as folder:
        (folder / "config.json").write_text("new")
        (folder / "model.safetensors").write_text("new")
    assert {file.name: file.read_text() for file in old.iterdir()} == {
        "config.json": "new", "model.safetensors": "new", "notes.txt": "old",
    }  # fmt: skip
    assert os.listdir(tmp_path) == ["model"]


def test_a_pickle_is_refused_with_the_reason_and_no_advice_to_run_it(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(
        LoadError, match=r"module\.pt would run code when unpickled \(torch\.nn\S+Linear\).*state_dict"
    ) as found:
        read_pickle(tmp_path / "module.pt")
    assert "weights_only" not in str(found.value) and "\x1b" not in str(found.value)
    (tmp_path / "noise.pt").write_bytes(b"noise")
    with pytest.raises(LoadError, match=r"noise\.pt is damaged, or was not written by torch\.save\b"):
        read_pickle(tmp_path / "noise.pt")
