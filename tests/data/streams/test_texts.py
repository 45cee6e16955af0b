"""Texts that are read piece by piece: documents, token files, packed rows, and what is said of damaged files."""

import gzip
import json
import os
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import zoo
from zoo.data.config import StreamSettings
from zoo.data.keyed_batches import Keys
from zoo.data.text import documents, token_files
from zoo.data.text.corpus import characters
from zoo.data.text.documents import find_documents, sample_texts
from zoo.data.text.packed import PackedTextDataModule
from zoo.preprocessing.tokenizer_training import train
from zoo.tasks import CausalLMTask
from zoo.utils.errors import DataError

TOKENS = characters("abcdefghijklmnopqrstuvwxyz 0123456789\n", 64)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "attention-zoo" / "tokens"


def text(i: int) -> str:
    return f"document {i} " + "word " * (i % 5)


def write(folder: Path, count: int = 40, first: int = 0) -> Path:
    """Documents first .. first + count - 1, in files of three kinds."""
    folder.mkdir(parents=True, exist_ok=True)
    third = [[text(i) for i in range(first + k, first + count, 3)] for k in range(3)]
    (folder / "a.jsonl").write_text("".join(json.dumps({"id": 1, "text": t}) + "\n" for t in third[0]))
    with gzip.open(folder / "b.jsonl.gz", "wt") as file:
        file.write("\n".join(json.dumps({"text": t}) for t in third[1]))
    pq.write_table(pa.table({"text": third[2]}), folder / "c.parquet", row_group_size=4)
    return folder


def module(folder: Path, **options: object) -> PackedTextDataModule:
    settings = StreamSettings(name=str(folder), batch_size=4, **options)  # type: ignore[arg-type]
    return PackedTextDataModule(find_documents(settings), TOKENS, settings, length=16, val_fraction=0.2, seed=1)


def texts_of(data: PackedTextDataModule, split: str) -> list[str]:
    """The documents of a split, read back from the token file."""
    part = getattr(data.splits, split)
    found, start = [], 0
    (file,) = part.files
    for number, end in enumerate(file.ends.tolist()):
        if number in set(part.documents.tolist()):
            found.append(TOKENS.decode(torch.tensor(file.tokens[start:end].astype("int64"))))
        start = end
    return found


def test_each_document_is_in_one_split(tmp_path: Path, cache: Path) -> None:
    data = module(write(tmp_path / "data"))
    parts = [texts_of(data, split) for split in ("train", "validation")]
    assert sorted(parts[0] + parts[1]) == sorted(text(i) for i in range(40)) and len(parts[1]) > 2
    assert data.splits.test is data.splits.validation and data.val is data.test
    made = {file: file.stat().st_ino for file in cache.iterdir() if file.suffix != ".lock"}
    assert sorted(file.suffix for file in made) == [".bin", ".index"]
    module(tmp_path / "data")
    assert made == {file: file.stat().st_ino for file in made}, "made once"
    next(file for file in made if file.suffix == ".bin").write_bytes(b"")
    assert texts_of(module(tmp_path / "data"), "train") == parts[0], "made again if it is damaged"
    write(tmp_path / "data", 43)
    assert len(module(tmp_path / "data").splits.train) >= len(parts[0])


def test_rows_hold_the_text_of_each_document(tmp_path: Path) -> None:
    data = module(write(tmp_path / "data"))
    rows = data.val.__getitems__(Keys(list(range(len(data.val))), 0))
    assert rows["input_ids"].shape == rows["document_ids"].shape == (len(data.val), 16)
    joined = "".join(texts_of(data, "validation"))
    assert "".join(TOKENS.decode(row) for row in rows["input_ids"]) == joined[: 16 * len(data.val)]
    ends = torch.tensor([len(one) for one in texts_of(data, "validation")]).cumsum(0)
    labels = rows["labels"].flatten()
    last = [int(end) - 1 for end in ends if int(end) <= len(labels)]
    assert (labels[last] == -100).all() and (labels == -100).sum() == len(last)
    following = rows["input_ids"].flatten()[1:]
    assert ((labels[:-1] == following) | (labels[:-1] == -100)).all()
    assert rows["document_ids"].min() == 0 and sum(rows["lengths"]) == rows["input_ids"].numel()
    plain = module(tmp_path / "data", packing="concatenate")
    batch = plain.val.__getitems__(Keys([0], 0))
    assert "document_ids" not in batch and torch.equal(batch["labels"][:, :-1], batch["input_ids"][:, 1:])


def test_the_loss_of_packed_rows_is_that_of_the_documents(tmp_path: Path) -> None:
    data = module(write(tmp_path / "data", 20))
    model = zoo.create_model("gpt_nano", vocab_size=TOKENS.vocab_size, depth=1, width=16, heads=2, max_length=64,
                             seed=0).double().eval()  # fmt: skip
    batch = data.val.__getitems__(Keys([0, 1], 0))
    loss = CausalLMTask(model, lr=1e-3).predict(model, batch).cross_entropy("sum")
    alone = loss.new_zeros(())
    for ids, numbers, labels in zip(batch["input_ids"], batch["document_ids"], batch["labels"]):
        for number in numbers.unique():
            own = numbers == number
            alone += torch.nn.functional.cross_entropy(model(ids[own][None])[0], labels[own], reduction="sum")
    assert torch.allclose(loss, alone, rtol=1e-10)


def test_ranks_workers_and_steps_get_the_same_rows(tmp_path: Path) -> None:
    data = module(write(tmp_path / "data", 120), shuffle_window=8)
    again = pickle.loads(pickle.dumps(data.train))
    for epoch in range(2):
        whole = list(data.batches(step=lambda epoch=epoch: epoch * data.steps_per_epoch))
        halves = [list(data.batches(step=lambda e=epoch: e * data.steps_per_epoch + 2, rank=rank, world=2))
                  for rank in range(2)]  # fmt: skip
        assert [[*a, *b] for a, b in zip(*halves)] == whole[2:]
        batch = data.train.__getitems__(whole[3])
        assert torch.equal(again.__getitems__(whole[3])["input_ids"], batch["input_ids"])
        rows = [row for keys in whole for row in keys]
        assert len(set(rows)) == len(rows) > 0.9 * len(data.train)


def test_sources_are_mixed_and_splits_are_folders(tmp_path: Path) -> None:
    write(tmp_path / "a" / "train", 40), write(tmp_path / "a" / "val", 10, first=100)
    write(tmp_path / "b", 90)
    data = module(tmp_path, sources=["a", "b"], weights=[3.0, 1.0])
    assert len(data.splits.validation) == 10 and len(data.splits.train) == 130
    keys = list(data.batches(step=lambda: 0))
    first = data.train.counts[0]
    shares = [sum(row < first for row in key) for key in keys]
    assert set(shares) == {3}
    assert data.train.__getitems__(keys[-1])["input_ids"].shape == (4, 16)
    alone = module(tmp_path / "a")
    assert len(alone.splits.train) == 40, "auto: a folder with train and val"


def test_tables_are_split_by_name_and_by_folder(tmp_path: Path) -> None:
    for name in ("train-0.jsonl", "test-0.jsonl", "validation-0.jsonl", "val/more.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"text": "x"}\n')
    (tmp_path / "notes.txt").write_text("x")
    (found,) = find_documents(StreamSettings(name=str(tmp_path)))
    assert {split: [file.name for file in files] for split, files in found.files.items()} == {
        "train": ["notes.txt", "train-0.jsonl"], "validation": ["more.jsonl", "validation-0.jsonl"],
        "test": ["test-0.jsonl"]}  # fmt: skip
    (tmp_path / "notes.txt").unlink(), (tmp_path / "train-0.jsonl").unlink()
    with pytest.raises(DataError, match="no text to train on, only of validation and test"):
        find_documents(StreamSettings(name=str(tmp_path)))


def test_files_beside_the_folders_of_splits_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "train", 3), write(tmp_path / "val", 3)
    (tmp_path / "extra.jsonl").write_text('{"text": "x"}\n')
    find_documents(StreamSettings(name=str(tmp_path)))
    assert "left out, not in a folder of a split: 1 file" in " ".join(capsys.readouterr().err.split())


def test_test_files_do_not_validate(tmp_path: Path) -> None:
    write(tmp_path / "train", 40), write(tmp_path / "test", 10, first=100)
    splits = module(tmp_path).splits
    assert len(splits.test) == 10 and len(splits.validation) + len(splits.train) == 40 and len(splits.validation) > 2
    settings = StreamSettings(name=str(tmp_path), batch_size=4)
    sources = find_documents(settings)
    assert len(sample_texts(sources, settings, 0.2).train.texts) == len(splits.train)
    data = PackedTextDataModule(sources, TOKENS, settings, length=16, val_fraction=0, seed=1)
    assert len(data.splits.train) == 40 and data.splits.validation is data.splits.test


@pytest.mark.parametrize(("encoding", "options"), [("utf-8-sig", {}), ("cp1252", {"encoding": "cp1252"})])
def test_json_lines_in_other_encodings(encoding: str, options: dict, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "caf\u00e9"}\n', encoding=encoding)
    settings = StreamSettings(name=str(tmp_path), **options)
    assert sample_texts(find_documents(settings), settings, 0.1).train.texts == ["caf\u00e9"]


def test_a_large_text_file_is_cut_at_line_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PIECE", 50)
    monkeypatch.setattr(token_files, "_CHARACTERS", 120)
    lines = "".join(f"line {i} is {'long ' * (i % 30)}\n" for i in range(40))
    (tmp_path / "a.txt").write_text(lines)
    assert find_documents(StreamSettings(name=str(tmp_path))) == [], "auto: small texts are read into memory"
    data = module(tmp_path, streaming=True)
    (file,) = data.splits.train.files
    assert TOKENS.decode(torch.tensor(file.tokens.astype("int64"))) == lines and len(file) > 10
    source = find_documents(StreamSettings(name=str(tmp_path), streaming=True))[0]
    pieces = [one.text for one in source.documents(tmp_path / "a.txt", StreamSettings())]
    assert all(piece.endswith("\n") or len(piece) == 100 for piece in pieces)


def test_documents_end_with_the_end_token(tmp_path: Path) -> None:
    settings = StreamSettings(name=str(write(tmp_path / "data")), batch_size=2)
    sources = find_documents(settings)
    sample = sample_texts(sources, settings, 0.2)
    held = set(texts_of(module(tmp_path / "data"), "validation"))
    assert held and not held & set(sample.train.texts) and len(sample.train.texts) + len(held) == 40
    bpe = train("bpe", sample.train.texts, 280, max_length=32)
    file = token_files.token_file(sources[0], "train", bpe, settings)
    assert (torch.tensor(file.tokens.astype("int64"))[file.ends - 1] == bpe.id("eos")).all()
    stored = [file.file, file.file.with_suffix(".index")]
    for each in stored:
        os.utime(each, (7, 7))
    token_files.token_file(sources[0], "train", bpe, settings)
    assert all(each.stat().st_mtime > 7 for each in stored), "the time of their last use"


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "content", "says"), [
    ("a.jsonl", b'{"text": "x"}\n{"text"\n', r"a\.jsonl, line 2: invalid JSON"),
    ("a.jsonl", b'{"text": "x"}\n{"text": 3}\n', r"a\.jsonl, line 2: 'text' is int, expected a string"),
    ("a.jsonl", b'{"said": "x"}\n', r"a\.jsonl, line 1 has no column of texts by its name \(it has said\).*text="),
    ("a.jsonl", b"[1]\n", r"line 1: expected a JSON object, got list"),
    ("a.jsonl", b'{"text": "x"}\n\xff', r"a\.jsonl, after line \d: not valid utf-8.*encoding="),
    ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz is damaged"),
    ("a.jsonl.gz", gzip.compress(b'{"text": "x"}')[:10] + b"\xff" * 20, r"a\.jsonl\.gz is damaged"),
    ("a.parquet", b"PAR1", r"a\.parquet is not a parquet file that can be read"),
    ("a.txt", b"good\n\xff\xfe\n", r"a\.txt, after line 1: not valid utf-8.*encoding="),
    ("a.jsonl", b'{"text": " "}\n', "no text to train on"),
])  # fmt: skip
def test_bad_files_are_named(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    settings = StreamSettings(name=str(tmp_path), streaming=True)
    with pytest.raises(DataError, match=says):
        sample_texts(find_documents(settings), settings, 0.1)


@pytest.mark.parametrize(("options", "says"), [
    ({"streaming": False, "packing": "concatenate"}, "packing=concatenate is for folders .*streaming=true"),
    ({"sources": ["none"]}, r"sources: .*none is not a folder"),
    ({"text": "txet"}, r"no column 'txet'; did you mean 'text'"),
    ({}, "of which none can be held out for validation"),
])  # fmt: skip
def test_options_that_do_not_apply(options: dict, says: str, tmp_path: Path) -> None:
    write(tmp_path / "data", 1)
    (tmp_path / "data" / "b.jsonl.gz").unlink(), (tmp_path / "data" / "c.parquet").unlink()
    with pytest.raises(DataError, match=says):
        module(tmp_path / "data", **options)


def test_texts_that_do_not_fill_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    with pytest.raises(ValueError, match="1 documents of 1 tokens do not fill a row of 16 tokens"):
        module(tmp_path)
    with pytest.raises(ValueError, match=r"packing is 'document', expected one of .* did you mean 'documents'"):
        module(tmp_path, packing="document")
