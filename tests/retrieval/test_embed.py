"""Folders to vectors: what is in the file, how work goes on after a kill, and what is refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from search_models import Colors, draw, tiny
from torch import Tensor

import zoo
import zoo.retrieval.embed
from zoo.retrieval import journal
from zoo.retrieval.embed import EmbedError, embed
from zoo.retrieval.embeddings_file import Embeddings, Item
from zoo.retrieval.encode import Encoder, fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw(tmp_path / "p", 10)
    (tmp_path / "p" / "note.txt").write_text("something yellow\n")
    (tmp_path / "p" / ".hidden.png").write_bytes(b"")
    (tmp_path / "p" / "table.csv").write_text("a,b")
    return tmp_path / "p"


def directly(model: Colors, found: Embeddings) -> Tensor:
    """Every vector by itself, without any of what is tested."""
    towers, rows = Encoder(model), []
    for i in range(len(found)):
        item, path = found.items[i], found.path(i)
        thing = item.name if path is None else path.read_text().strip() if item.kind == "text" else path
        rows.append(towers.vectors(item.kind, [thing]))
    return torch.cat(rows)


def watch(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with the sizes of the batches of pictures that are computed."""
    seen, real = [], Colors.encode_image

    def watched(self: Colors, pixel_values: Tensor) -> Tensor:
        seen.append(len(pixel_values))
        return real(self, pixel_values)

    monkeypatch.setattr(Colors, "encode_image", watched)
    return seen


@pytest.mark.parametrize("ending", ["safetensors", "parquet"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_folder(folder, tmp_path, ending, dtype):
    model = Colors()
    found = embed(model, folder, tmp_path / f"v.{ending}", dtype=dtype, batch_size=3)
    names = [item.name for item in found.items]
    assert names == sorted(names) and len(found) == 11 and "more/green-1.png" in names and "note.txt" in names
    assert found.vectors.dtype == getattr(torch, dtype) and found.width == 16
    error = (found.vectors.float() - directly(model, found)).abs().max()
    assert error < (1e-6 if dtype == "float32" else 1e-3)
    again = zoo.Embeddings.open(found.file)
    assert list(again.items) == list(found.items) and again.vectors.equal(found.vectors)
    assert again.fingerprint == fingerprint(model) and again.folder == folder.resolve() and again.broken == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", f"v.{ending}"]


def test_a_list_of_paths_and_texts(folder, tmp_path):
    items = ["a red one", str(folder / "red-0.png"), folder / "note.txt", "a red one"]
    found = embed(Colors(), items, tmp_path / "v.safetensors")
    assert [item.kind for item in found.items] == ["text", "image", "text", "text"]
    assert found.path(0) is None and found.path(1) == folder / "red-0.png" and found.folder is None
    torch.testing.assert_close(found.vectors[0], found.vectors[3], atol=1e-6, rtol=0)
    assert found.items[2].size == 17


def test_a_real_model_and_the_folder_it_came_from(folder, tmp_path):
    model = zoo.load(zoo.save(tiny(), tmp_path / "model"))
    found = embed(model, folder, tmp_path / "v.safetensors", modalities=["image"], batch_size=4)
    pixels = model.preprocess(images=[found.path(i) for i in range(10)])["pixel_values"]
    with torch.no_grad():
        assert torch.allclose(found.vectors, model.eval().encode_image(pixels), atol=1e-6)
    assert found.source == str((tmp_path / "model").resolve()) and len(found) == 10


def test_a_model_in_training_embeds_as_in_evaluation(folder, tmp_path):
    model = tiny()
    model.image.blocks[0].dropout = model.text.blocks[0].dropout = 0.5
    expected = embed(model.eval(), folder, tmp_path / "eval.safetensors", modalities=["image"]).vectors
    found = embed(model.train(), folder, tmp_path / "train.safetensors", modalities=["image"]).vectors
    assert torch.equal(found, expected) and model.training and model.image.training


def test_sounds(tmp_path):
    import soundfile

    class Pitch(Colors):
        modalities = ("audio", "text")

        def encode_audio(self, input_values: Tensor, audio_attention_mask: Tensor | None = None) -> Tensor:
            return torch.nn.functional.normalize(input_values[:, :3] @ self.weight, dim=-1)

    def hear(audio=None, text=None):
        waves = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in audio]
        return {"input_values": torch.stack(waves)}

    model = Pitch()
    model.preprocess = hear
    for i, seconds in enumerate((100, 200, 100, 200, 200)):  # two lengths: what is alike is computed together
        wave = torch.randn(seconds, generator=torch.Generator().manual_seed(i)).clamp(-1, 1) * 0.5
        soundfile.write(tmp_path / f"{i}.wav", wave.numpy(), 8000)
    (tmp_path / "5.wav").write_bytes(b"RIFF nothing")
    found = embed(model, tmp_path, tmp_path / "v.safetensors", on_error="skip")
    assert len(found) == 5 and len(found.broken) == 1 and "5.wav" in found.broken[0]
    for i in range(5):
        one = Encoder(model).encode("audio", hear([found.path(i)]))[0]
        assert torch.allclose(found.vectors[i], one, atol=1e-6)


# --- Going on ---------------------------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from search_models import Colors
from zoo.retrieval import journal
from zoo.retrieval.embed import embed
journal.SECONDS = 0.0
calls, real = [], Colors.encode_image
def dying(self, pixel_values):
    calls.append(1)
    if len(calls) == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, pixel_values)
Colors.encode_image = dying
embed(Colors(), {folder!r}, {out!r}, batch_size=3, on_error="skip", progress=False)
"""


def test_killed_and_started_again_it_writes_the_same_bytes(folder, tmp_path, monkeypatch):
    (folder / "broken.png").write_bytes(b"no picture")
    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    embed(Colors(), folder, whole, batch_size=3, on_error="skip")
    code = CHILD.format(tests=str(Path(__file__).parents[1]), folder=str(folder), out=str(killed), after=3)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    work = tmp_path / ".killed.safetensors.unfinished"
    assert not killed.exists() and (work / "rows.bin").stat().st_size > 0
    with open(work / "rows.bin", "ab") as rows, open(work / "journal.jsonl", "a") as log:
        rows.write(b"torn")  # what a kill between two writes leaves
        log.write('{"width": 16, "it')
    seen = watch(monkeypatch)
    found = embed(Colors(), folder, killed, batch_size=3, on_error="skip")
    assert 0 < sum(seen) < 10
    assert killed.read_bytes() == whole.read_bytes() and not work.exists()
    assert len(found.broken) == 1 and "broken.png is not a readable image file" in found.broken[0]


def test_what_is_done_before_a_broken_file_is_kept(folder, tmp_path, monkeypatch):
    (folder / "zzz.png").write_bytes(b"no picture")
    model, out = Colors(), tmp_path / "v.safetensors"
    with pytest.raises(EmbedError, match=r"zzz\.png.*on_error='skip'"):
        embed(model, folder, out, batch_size=2)
    assert not out.exists()
    (folder / "zzz.png").unlink()
    seen = watch(monkeypatch)
    assert len(embed(model, folder, out, batch_size=2)) == 11
    assert sum(seen) <= 1  # its neighbor in the batch


def test_only_what_changed_is_computed_again(folder, tmp_path, monkeypatch):
    model, out = Colors(), tmp_path / "v.safetensors"
    first = embed(model, folder, out)
    bytes_before, vectors = out.read_bytes(), first.vectors.clone()
    seen = watch(monkeypatch)
    embed(model, folder, out)
    assert not seen and out.read_bytes() == bytes_before
    Image.new("RGB", (9, 9), (1, 2, 3)).save(folder / "black.png")
    (folder / "red-0.png").unlink()
    Image.new("RGB", (9, 9), (250, 250, 250)).save(folder / "red-4.png")
    again = embed(model, folder, out)
    assert sum(seen) == 2 and len(again) == 11
    assert torch.allclose(again.vectors, directly(model, again), atol=1e-6)
    old = {item.name: row for item, row in zip(first.items, vectors)}
    assert all(old[item.name].equal(again.vectors[i]) for i, item in enumerate(again.items)
               if item.name not in ("black.png", "red-4.png"))  # fmt: skip


def test_a_file_that_changed_but_has_the_same_size_is_computed_again(folder, tmp_path, monkeypatch):
    model, out, file = Colors(), tmp_path / "v.safetensors", folder / "plain.bmp"
    Image.new("RGB", (9, 9), (250, 0, 0)).save(file)
    before = embed(model, folder, out)
    size, time = file.stat().st_size, file.stat().st_mtime_ns
    Image.new("RGB", (9, 9), (0, 0, 250)).save(file)
    os.utime(file, ns=(time + 1000, time + 1000))
    assert file.stat().st_size == size
    seen = watch(monkeypatch)
    again = embed(model, folder, out)
    row = [item.name for item in again.items].index("plain.bmp")
    assert sum(seen) == 1 and not torch.allclose(before.vectors[row], again.vectors[row])


def test_two_processes_do_not_write_one_file(folder, tmp_path):
    pytest.importorskip("fcntl")
    code = """
import sys, fcntl
lock = open(sys.argv[1], "a")
fcntl.lockf(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
    work = tmp_path / ".v.safetensors.unfinished"
    work.mkdir()
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(work / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout and other.stdin and other.stdout.readline() == b"held\n"
    try:
        with pytest.raises(ValueError, match="another process is writing"):
            embed(Colors(), folder, tmp_path / "v.safetensors")
    finally:
        other.stdin.close()
        other.wait()
    assert len(embed(Colors(), folder, tmp_path / "v.safetensors")) == 11


def test_a_journal_of_another_model_is_not_gone_on_with(folder, tmp_path, monkeypatch):
    out = tmp_path / "v.safetensors"
    (folder / "zzz.png").write_bytes(b"no picture")
    with pytest.raises(EmbedError):
        embed(Colors(0), folder, out, batch_size=2)
    found = embed(Colors(1), folder, out, batch_size=2, on_error="skip")
    assert torch.allclose(found.vectors, directly(Colors(1), found), atol=1e-6)


# --- Fingerprints -----------------------------------------------------------------------------------------------------


def test_the_fingerprint_sees_weights_config_and_preprocessing(tmp_path):
    from dataclasses import replace

    model = tiny()
    marks = {fingerprint(model)}
    assert fingerprint(zoo.load(zoo.save(model, tmp_path / "m"))) in marks
    with torch.no_grad():
        model.text.blocks[0].mlp.up.bias[0] += 1e-6
    marks.add(fingerprint(model))
    image = replace(model.preprocess.image, interpolation="bilinear")
    model.preprocess = replace(model.preprocess, image=image)
    marks.add(fingerprint(model))
    marks.add(fingerprint(model.half()))
    assert len(marks) == 4


def test_a_file_of_another_model_is_refused(folder, tmp_path):
    out = tmp_path / "v.safetensors"
    embed(Colors(0), folder, out)
    before = out.read_bytes()
    with pytest.raises(ValueError, match=r"another model.*fingerprint.*overwrite=True"):
        embed(Colors(1), folder, out)
    assert out.read_bytes() == before
    assert embed(Colors(1), folder, out, overwrite=True).fingerprint == fingerprint(Colors(1))


# --- Refusals ---------------------------------------------------------------------------------------------------------


def test_missing_and_broken_files_are_named(folder, tmp_path):
    (folder / "cut.png").write_bytes((folder / "red-0.png").read_bytes()[:40])
    (folder / "empty.txt").write_text(" \n")
    (folder / "latin.txt").write_bytes(b"gr\xfcn")
    (folder / "long.txt").write_text("red " * 100)
    items = [*sorted(folder.glob("[!.]*.png")), *sorted(folder.glob("*.txt")), str(folder / "gone.jpg")]
    found = embed(Colors(), items, tmp_path / "v.safetensors", on_error="skip")
    said = "\n".join(found.broken)
    for name, why in [("cut.png", ""), ("empty.txt", "it is empty"), ("latin.txt", "utf-8"),
                      ("long.txt", "more than 200"), ("gone.jpg", "no such file")]:  # fmt: skip
        assert name in said and why in said
    assert len(found.broken) == 5 and len(found) == len(items) - 5
    assert Embeddings.open(tmp_path / "v.safetensors").broken == found.broken
    for path in items:
        if Path(path).exists():
            Path(path).write_bytes(b"nothing")
    with pytest.raises(EmbedError, match="none of"):
        embed(Colors(), items[:3], tmp_path / "w.safetensors", on_error="skip")


def test_numbers_that_are_not_finite_are_refused(folder, tmp_path):
    model = Colors()
    with torch.no_grad():
        model.weight[0, 0] = torch.nan
    with pytest.raises(EmbedError, match="not finite"):
        embed(model, folder, tmp_path / "v.safetensors")


@pytest.mark.parametrize(
    ("items", "options", "said"),
    [
        ("empty", {}, "has no images or texts in it"),
        ("gone", {}, "does not exist"),
        ([], {}, "an empty list"),
        (["  "], {}, "expected a text"),
        ([Path("x.csv")], {}, "the path of an image"),
        (["x.wav"], {}, "no audio tower; it has image, text"),
        ([3], {}, "given int"),
        ("p", {"modalities": ["image", "sound"]}, "'sound' is not one of"),
        ("p", {"modalities": ["audio"]}, "no audio tower"),
        ("p", {"dtype": "float17"}, "did you mean 'float16'"),
        ("p", {"on_error": "ignore"}, "'raise' or 'skip'"),
        ("p", {"batch_size": 0}, "batch_size=0"),
        ("p", {"out": "p"}, "is a folder"),
        ("p", {"out": "v.parquet", "dtype": "bfloat16"}, "parquet has no bfloat16"),
        ("p", {"out": "p/table.csv"}, "is damaged, or not a file of embeddings"),
    ],
)
def test_what_embed_refuses(folder, tmp_path, items, options, said):
    (tmp_path / "empty").mkdir()
    items = tmp_path / items if isinstance(items, str) else items
    out = tmp_path / options.pop("out", "v.safetensors")
    with pytest.raises(ValueError, match=said):
        embed(Colors(), items, out, **options)
    assert (folder / "table.csv").read_text() == "a,b"


def test_a_damaged_file_is_named(folder, tmp_path):
    from safetensors.torch import save_file

    out = tmp_path / "v.safetensors"
    embed(Colors(), folder, out)
    whole = out.read_bytes()
    out.write_bytes(whole[:-100])
    with pytest.raises(zoo.LoadError, match=r"v\.safetensors is damaged"):
        Embeddings.open(out)
    save_file({"weight": torch.ones(2)}, out)
    with pytest.raises(zoo.LoadError, match="not a file of embeddings"):
        Embeddings.open(out)
    with pytest.raises(zoo.LoadError, match="there is no file"):
        Embeddings.open(tmp_path / "gone.safetensors")


def test_names_that_are_no_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        draw(tmp_path / "p", 1)[0].rename(tmp_path / "p" / name)
    except OSError:
        pytest.skip("this file system has no such names")
    found = embed(Colors(), tmp_path / "p", tmp_path / "v.safetensors")
    assert found.items[0].name == name and found.path(0).is_file()
    assert embed(Colors(), tmp_path / "p", tmp_path / "v.parquet").items[0].kind == "image"


def test_a_bar_moves_on_a_terminal_alone(folder, tmp_path, monkeypatch, capsys):
    import rich.console

    embed(Colors(), folder, tmp_path / "v.safetensors")
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1 and "1 file (.csv)" in printed  # what it leaves out, and no bar
    monkeypatch.setattr(rich.console.Console, "is_terminal", True)
    monkeypatch.setenv("TERM", "xterm")
    embed(Colors(), folder, tmp_path / "w.safetensors")
    assert "11/11" in capsys.readouterr().err


def test_rows_are_on_disk_before_the_journal_names_them(tmp_path, monkeypatch):
    work = journal.EmbeddingJournal(tmp_path / "w", {"fingerprint": "x", "dtype": "float32"})
    rows, lines, seen = tmp_path / "w" / "rows.bin", tmp_path / "w" / "journal.jsonl", []

    def sync(descriptor: int) -> None:
        if os.path.sameopenfile(descriptor, work._rows.fileno()):
            seen.append((rows.stat().st_size, len(lines.read_text().splitlines())))

    with work.held():
        monkeypatch.setattr(os, "fsync", sync)
        work.add([Item("text", "a"), Item("text", "b")], torch.ones(2, 3))
        work.commit(now=True)
        assert seen == [(24, 1)] and len(lines.read_text().splitlines()) == 2


def test_what_a_journal_tells(tmp_path):
    work = journal.EmbeddingJournal(tmp_path / "w", {"fingerprint": "x", "dtype": "float32"})
    with work.held():
        work.add([Item("text", "a"), Item("text", "b")], torch.ones(2, 3))
        work.note(Item("text", "c"), "why")
        work.commit(now=True)
        assert work.vectors().equal(torch.ones(2, 3))
    lines = [json.loads(line) for line in (tmp_path / "w" / "journal.jsonl").read_text().splitlines()]
    assert lines[1]["width"] == 3 and lines[2]["broken"] == [[["text", "c", -1, -1], "why"]]
    again = journal.EmbeddingJournal(tmp_path / "w", work.plan)
    with again.held():
        assert again.rows == work.rows and again.broken == work.broken
        again.remove()
    assert not (tmp_path / "w").exists()
    assert zoo.retrieval.embed.AHEAD >= 1
