"""Pairs of source and target texts from tables, two files, folders, the hub and the grammar; their batches."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.data import (
    ParallelDataModule,
    ParallelTextSettings,
    load_card,
    load_parallel_texts,
    make_aligned_translations,
    make_translations,
)
from zoo.data.keyed_batches import Keys
from zoo.data.splits import Splits
from zoo.data.synthetic import translations
from zoo.data.text.parallel import ParallelTexts
from zoo.preprocessing.tokenizer_training import train
from zoo.utils.errors import DataError

ENGLISH = [f"a dog number {i}" for i in range(20)]
GERMAN = [f"ein Hund Nummer {i}" for i in range(20)]


def load(name: object, **options: Any) -> Splits[ParallelTexts]:
    return load_parallel_texts(ParallelTextSettings(name=str(name), **options))


def write(file: Path, lines: list[str]) -> Path:
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def pairs(sets: Splits[ParallelTexts]) -> list[tuple[str, str]]:
    return sorted(pair for part in sets.parts for pair in zip(part.sources, part.targets))


def test_the_layouts_are_read_alike(tmp_path: Path) -> None:
    expected = sorted(zip(ENGLISH, GERMAN))
    en, de = write(tmp_path / "train.en", ENGLISH), write(tmp_path / "train.de", GERMAN)
    two = load(f"{en},{de}")
    assert pairs(two) == expected and (len(two.train), len(two.test)) == (18, 2)
    tsv = write(tmp_path / "a.tsv", ["source\ttarget", *(f"{a}\t{b}" for a, b in zip(ENGLISH, GERMAN))])
    assert pairs(load(tsv)) == expected
    lines = [json.dumps({"id": "x", "translation": {"en": a, "de": b}}) for a, b in zip(ENGLISH, GERMAN)]
    hub = write(tmp_path / "hub.jsonl", lines)
    assert pairs(load(hub, source_text="en", target_text="de")) == expected
    folder = tmp_path / "folder"
    folder.mkdir()
    for split, rows in (("train", slice(10)), ("val", slice(10, 15)), ("test", slice(15, 20))):
        write(folder / f"{split}.en", ENGLISH[rows])
        write(folder / f"{split}.de", GERMAN[rows])
    found = load(folder, source_text="en", target_text="de")
    assert found.validation is not None and [len(part) for part in found.parts] == [10, 5, 5]
    assert pairs(found) == expected
    tested = load(f"{en},{de}", test=f"{folder / 'test.en'},{folder / 'test.de'}")
    assert tested.test.targets == GERMAN[15:] and len(tested.train) == 20


def test_the_direction_of_two_columns_is_that_of_their_order_or_of_the_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write(tmp_path / "a.csv", ["en,de", *(f"{a},{b}" for a, b in zip(ENGLISH, GERMAN))])
    assert load(table).train.sources[0] in ENGLISH
    assert "source texts: column 'en', target texts: column 'de'" in "".join(capsys.readouterr())
    for options in ({"source_text": "de"}, {"target_text": "en"}, {"source_text": "de", "target_text": "en"}):
        assert load(table, **options).train.sources[0] in GERMAN
    with pytest.raises(DataError, match="expected two different columns"):
        load(table, source_text="de", target_text="de")
    with pytest.raises(DataError, match="has no column 'fr'"):
        load(table, source_text="fr")
    three = write(tmp_path / "three.csv", ["en,de,fr", *(f"{a},{b},{b}" for a, b in zip(ENGLISH, GERMAN))])
    with pytest.raises(DataError, match=r"has the columns en, de, fr: name the source_text column, e.g. source_text="):
        load(three)


def test_files_with_different_numbers_of_lines_name_the_line(tmp_path: Path) -> None:
    en, de = write(tmp_path / "train.en", ENGLISH), write(tmp_path / "train.de", GERMAN[:-1])
    says = r"train.en has 20 lines and .*train.de has 19.*line 20 of .*train.en has no counterpart \('a dog number 19'"
    with pytest.raises(DataError, match=says):
        load(f"{en},{de}")
    write(de, [*GERMAN[:7], "", *GERMAN[7:]])
    with pytest.raises(DataError, match=r"line 21 of .*train.de has no counterpart .*; line 8 is empty in one of them"):
        load(f"{en},{de}")


def test_an_empty_text_names_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    en, de = write(tmp_path / "train.en", [*ENGLISH[:4], " ", *ENGLISH[5:]]), write(tmp_path / "train.de", GERMAN)
    with pytest.raises(DataError, match=r"line 5: the source text is empty \(on_error=skip"):
        load(f"{en},{de}")
    found = load(f"{en},{de}", on_error="skip")
    assert len(pairs(found)) == 19 and (ENGLISH[5], GERMAN[5]) in pairs(found)
    assert "skipped 1 pairs" in "".join(capsys.readouterr()) and len(found.skipped) == 1
    table = write(tmp_path / "a.jsonl", [json.dumps({"source": "a", "target": t}) for t in ["b", 3, None]])
    with pytest.raises(DataError, match="line 2: the target text is int, expected a string"):
        load(table)


@pytest.mark.parametrize(("name", "says"), [
    ("{0}/train.en", "is one text file: expected a table .*or two text files"),
    ("{0}/train.en,{0}/train.fr", "train.fr does not exist"),
    ("{0}/train.en,{0}/train.de,{0}/train.en", "expected one table, or two text files"),
    ("{0}/a.csv,{0}/b.csv", "expected one table, or two text files"),
    ("{0}/empty", "has no train table and no train files"), ("multi31k", "did you mean 'multi30k'"),
])  # fmt: skip
def test_what_is_not_a_dataset(tmp_path: Path, name: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write(tmp_path / "train.en", ENGLISH)
    write(tmp_path / "train.de", GERMAN)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=says):
        load(name.format(tmp_path))
    with pytest.raises(DataError, match="header= and sep= are for CSV files"):
        load(f"{tmp_path}/train.en,{tmp_path}/train.de", sep="tab")


def test_a_folder_with_one_file_of_a_split(tmp_path: Path) -> None:
    write(tmp_path / "train.en", ENGLISH)
    with pytest.raises(DataError, match=r"has train.en for train: expected two files"):
        load(tmp_path)


def test_the_card_of_multi30k_names_its_columns(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "multi30k").mkdir()
    for split in ("train", "validation", "test"):
        table = pyarrow.table({"de": GERMAN[:4], "en": ENGLISH[:4]})
        pyarrow.parquet.write_table(table, tmp_path / "multi30k" / f"{split}.parquet")
    found = load("multi30k", data_dir=str(tmp_path))
    assert found.train.sources == ENGLISH[:4] and found.real and found.test_name == ""
    turned = load("multi30k", data_dir=str(tmp_path), source_text="de", target_text="en")
    assert turned.train.sources == GERMAN[:4]


def test_the_synthetic_translations() -> None:
    sources, targets = make_translations(3000, seed=0)
    assert make_translations(3000, seed=0) == (sources, targets) and len(set(sources)) == 3000
    assert make_translations(10, seed=1)[0] != sources[:10]
    # words stand in another order: the finite verb before the subject, the participle at the end
    by_source = dict(zip(sources, targets))
    inverted = [s for s in sources if s.startswith("Yesterday the")]
    assert inverted and all(by_source[s].split()[2] in ("der", "die", "das") for s in inverted)
    perfect = [s for s in sources if " has seen " in s and " because " not in s and " although " not in s]
    perfect = [s for s in perfect if " before " not in s]
    assert perfect and all(by_source[s].endswith("gesehen.") for s in perfect)
    found = load("synthetic")
    card = load_card("synthetic_translations")
    assert not found.real and {"train": len(found.train), "test": len(found.test)} == card.splits
    assert card.splits == {"train": translations.TRAIN, "test": translations.TEST}


def test_the_synthetic_translations_know_which_words_translate_each_other() -> None:
    aligned = make_aligned_translations(300, seed=0)
    assert make_translations(300, seed=0) == ([pair[0] for pair in aligned], [pair[1] for pair in aligned])
    nouns = {english: german for english, german, _ in translations.PERSONS + translations.OBJECTS}
    verbs = {english: german for past, participle, *german_parts in translations.VERBS
             for english, german in zip((past, participle), [german_parts] * 2)}  # fmt: skip
    checked = 0
    for source, target, alignment in aligned:
        words = [[word.strip(".,") for word in text.split()] for text in (source, target)]
        links = [tuple(map(int, link.split("-"))) for link in alignment.split()]
        assert all({link[side] for link in links} == set(range(len(words[side]))) for side in (0, 1))  # none left out
        for i, j in links:
            checked += words[0][i] in nouns or words[0][i] in verbs
            assert nouns.get(words[0][i], words[1][j]) == words[1][j]
            assert words[1][j] in verbs.get(words[0][i], [words[1][j]])
    assert checked > 900
    by_source = {source: (target, links) for source, target, links in aligned}
    assert by_source["Yesterday a teacher has sold the violin behind the church."][1] == (
        "0-0 1-2 2-3 3-1 4-9 5-4 6-5 7-6 8-7 9-8"
    )


def test_batches() -> None:
    sets = load("synthetic", max_train_samples=300, max_test_samples=50)
    preprocess = train("seq2seq", [*sets.train.sources, *sets.train.targets], 600, max_length=64)
    data = ParallelDataModule(sets, preprocess, 32, max_source_length=12, truncate="warn")
    batch = data.train.__getitems__(Keys([3, 0, 7], 0))
    assert batch["input_ids"].shape == batch["attention_mask"].shape and batch["input_ids"].shape[1] <= 12
    for row, index in enumerate([3, 0, 7]):
        ids = preprocess.encode(sets.train.targets[index])
        labels = batch["labels"][row]
        assert labels[labels != -100].tolist() == ids and batch["label_lengths"][row] == len(ids)
        assert ids[-1] == preprocess.id("eos") and preprocess.decode(ids) == sets.train.targets[index]
    assert batch["lengths"] == batch["attention_mask"].sum(1).tolist() and batch["index"].tolist() == [3, 0, 7]
    # batches of pairs of similar lengths have little padding, on both sides
    batches = [data.train.__getitems__(keys) for keys in data.batches(step=lambda: 0)]
    assert len(batches) == 9
    waste = torch.tensor([(b["labels"] == -100).float().mean().item() for b in batches]).mean()
    plain = ParallelDataModule(sets, preprocess, 32, group_by_length=False)
    other = [plain.train.__getitems__(keys) for keys in plain.batches(step=lambda: 0)]
    assert waste < 0.7 * torch.tensor([(b["labels"] == -100).float().mean().item() for b in other]).mean()
    with pytest.raises(ValueError, match="expected at most max_length=5"):
        ParallelDataModule(sets, preprocess, 32, max_target_length=5, truncate="error")
