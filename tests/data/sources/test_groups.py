"""Items of one speaker, author or patient are in one split: by a column, or by the names of files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from zoo.data.audio.load import load_audio
from zoo.data.audio.speech import load_speech
from zoo.data.config import AudioDataSettings, AudioPairSettings, DataSettings, SpeechSettings, TextDataSettings
from zoo.data.image.load import load_images
from zoo.data.pairs.audio import load_audio_pairs
from zoo.data.splits import held_out_groups
from zoo.data.text.load import load_texts
from zoo.utils.errors import DataError


def test_whole_groups_are_held_out_about_a_fraction_of_the_rows() -> None:
    g = torch.Generator().manual_seed(0)
    groups = torch.randint(0, 40, (800,), generator=g)
    classes = torch.randint(0, 3, (800,), generator=g)
    found = {tuple(held_out_groups(groups, classes, 0.1, seed).tolist()) for seed in range(6)}
    assert len(found) == 6  # the seed decides
    for held in map(torch.tensor, found):
        assert not set(groups[held].tolist()) & set(groups[~held].tolist()) and 60 <= held.sum() <= 100
    assert torch.equal(held_out_groups(groups, classes, 0.1, 3), held_out_groups(groups, classes, 0.1, 3))


def test_every_class_keeps_a_row_to_train_on() -> None:
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    classes = torch.tensor([0, 1, 0, 0, 2, 2])  # only group 0 has class 1, only group 2 class 2
    for seed in range(10):
        assert held_out_groups(groups, classes, 0.3, seed).tolist() == [False, False, True, True, False, False]
    assert not held_out_groups(groups, torch.tensor([0, 0, 1, 1, 2, 2]), 0.3, 0).any()


def table(folder: Path, rows: list[tuple[object, ...]], name: str = "train.csv") -> Path:
    file = folder / name
    file.write_text("text,label,author\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows))
    return file


def authors(count: int, of: int, prefix: str = "a") -> list[tuple[object, ...]]:
    return [(f"text {i} {prefix}{i % of}", i // of % 2, f"{prefix}{i % of}") for i in range(count)]


def names(part: Any) -> set[str]:
    return {text.split()[-1] for text in part.texts}


def test_authors_are_in_one_split_of_a_table(tmp_path: Path) -> None:
    s = TextDataSettings(name=str(table(tmp_path, authors(200, 20))), group_column="author")
    sets = load_texts(s).with_validation(0.1, 0)
    assert sets.validation is not None
    parts = [names(part) for part in (sets.train, sets.validation, sets.test)]
    assert [len(part) for part in parts] == [16, 2, 2] and len(set.union(*parts)) == 20
    assert sets.notes == ["whole groups of group_column=author are in one split each: 20 groups"]
    again = load_texts(s).with_validation(0.1, 0)
    assert [names(part) for part in (again.train, again.validation, again.test)] == parts  # type: ignore[arg-type]
    fewer = load_texts(TextDataSettings(name=s.name, group_column="author", max_train_samples=60)).with_validation(
        0.2, 0
    )
    assert not names(fewer.train) & names(fewer.validation) and len(fewer.train) + len(fewer.validation) == 60  # type: ignore[arg-type]


def test_an_author_in_two_splits_of_the_data_is_refused(tmp_path: Path) -> None:
    table(tmp_path, authors(40, 4))
    table(tmp_path, [*authors(4, 4, "b"), ("more", 0, "a1")], "test.csv")
    with pytest.raises(DataError, match="group_column=author: a1 is both in the train and in the test split"):
        load_texts(TextDataSettings(name=str(tmp_path), group_column="author"))
    table(tmp_path, authors(4, 4, "b"), "test.csv")
    assert names(load_texts(TextDataSettings(name=str(tmp_path), group_column="author")).test) == {
        "b0",
        "b1",
        "b2",
        "b3",
    }


@pytest.mark.parametrize(("rows", "says"), [
    (authors(40, 1), "group_column=author: none of the groups can be held out for test: there is 1 for training"),
    ([("a", 0, "x"), ("b", 1, "y")] * 9, "each of the 2 has a class that no other one has; add texts of others"),
    ([*authors(40, 4), ("b", 1, "")], r"line 42: no group in 'author'"),
])  # fmt: skip
def test_too_few_groups_are_refused(tmp_path: Path, rows: list, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load_texts(TextDataSettings(name=str(table(tmp_path, rows)), group_column="author"))


def test_two_groups_are_too_few_for_three_splits(tmp_path: Path) -> None:
    sets = load_texts(TextDataSettings(name=str(table(tmp_path, authors(40, 2))), group_column="author"))
    with pytest.raises(DataError, match=r"for validation: there is 1 .* set val_fraction=0 to validate on the"):
        sets.with_validation(0.1, 0)
    assert sets.with_validation(0.0, 0).validation is sets.test


def test_an_unknown_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"group_column=autor: .* did you mean 'author'"):
        load_texts(TextDataSettings(name=str(table(tmp_path, authors(40, 4))), group_column="autor"))


def test_several_labels_and_numbers_do_not_keep_a_group_back(tmp_path: Path) -> None:
    """Each author has combinations of labels that no other one has."""
    file = tmp_path / "t.csv"
    file.write_text("text,author,label\n" + "".join(f"t {i},a{i % 8},l{i % 8}|m{i // 8}\n" for i in range(64)))
    s = TextDataSettings(name=str(file), group_column="author", problem_type="multi_label_classification")
    assert len(load_texts(s).test) == 8


# --- folders, by a part of the name ---


def photos(folder: Path, people: int = 6) -> Path:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for person in range(people):
            for i in range(4):
                Image.new("RGB", (8, 8), (person * 20, 0, 0)).save(folder / name / f"p{person}_{i}.png")
    return folder


def people(part: Any) -> set[int]:
    return set((part.images[:, 0, 0, 0] // 20).tolist())


def test_people_are_in_one_split_of_a_folder(tmp_path: Path) -> None:
    s = DataSettings(name=str(photos(tmp_path / "photos")), group_pattern=r"/(p\d+)_")
    sets = load_images(s).with_validation(0.15, 0)
    parts = [people(part) for part in (sets.train, sets.validation, sets.test)]
    assert [len(part) for part in parts] == [4, 1, 1] and len(set.union(*parts)) == 6
    with pytest.raises(DataError, match=r"finds no group in 'cat/p0_0\.png', a file of"):
        load_images(DataSettings(name=s.name, group_pattern=r"(q\d+)"))


def test_a_table_of_images_has_a_column(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    files = sorted(folder.rglob("*.png"))
    lines = [f"{f.relative_to(folder)},{f.parent.name},{f.name[:2]}" for f in files]
    (folder / "t.csv").write_text("\n".join(["file_name,label,person", *lines]) + "\n")
    sets = load_images(DataSettings(name=str(folder / "t.csv"), group_column="person"))
    assert len(people(sets.test)) == 1 and not people(sets.test) & people(sets.train)
    with pytest.raises(DataError, match=r"is a table: use group_column="):
        load_images(DataSettings(name=str(folder / "t.csv"), group_pattern=r"(p\d+)"))


@pytest.mark.parametrize(("options", "says"), [
    ({"group_column": "a", "group_pattern": "(a)"}, "give only one of them"),
    ({"group_pattern": "a"}, "expected one group in parentheses, got 0"),
    ({"group_pattern": "(a)(b)"}, "expected one group in parentheses, got 2"),
    ({"group_pattern": "(a"}, "not a regular expression"),
    ({"name": "synthetic", "group_column": "a"}, "synthetic data has no groups"),
])  # fmt: skip
def test_options_that_contradict_themselves(options: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DataSettings(**options)


# --- audio ---


def clips(folder: Path) -> Path:
    soundfile = pytest.importorskip("soundfile")
    for name in ("no", "yes"):
        (folder / name).mkdir(parents=True)
        for speaker in range(5):
            for i in range(3):
                soundfile.write(folder / name / f"s{speaker}-{i}.wav", torch.full((1600,), speaker / 10).numpy(), 8000)
    return folder


def speakers(part: Any) -> set[int]:
    waves = part.clips if hasattr(part, "clips") else part.items
    return {round(float(waves[i][0]) * 10) for i in range(len(waves))}


def test_speakers_are_in_one_split(tmp_path: Path) -> None:
    folder = clips(tmp_path / "clips")
    sets = load_audio(AudioDataSettings(name=str(folder), group_pattern=r"(s\d)-")).with_validation(0.2, 0)
    parts = [speakers(part) for part in (sets.train, sets.validation, sets.test)]
    assert [len(part) for part in parts] == [3, 1, 1] and len(set.union(*parts)) == 5
    pairs = load_audio_pairs(AudioPairSettings(name=str(folder), group_pattern=r"(s\d)-")).with_validation(0.2, 0)
    assert not speakers(pairs.train) & speakers(pairs.validation) and len(speakers(pairs.test)) == 1
    files = sorted(folder.rglob("*.wav"))
    lines = [f"{file.relative_to(folder)},{file.parent.name},{file.name[:2]}" for file in files]
    (folder / "metadata.csv").write_text("\n".join(["file_name,text,person", *lines]) + "\n")
    speech = load_speech(SpeechSettings(name=str(folder), group_column="person")).with_validation(0.2, 0)
    parts = [speakers(part) for part in (speech.train, speech.validation, speech.test)]
    assert [len(part) for part in parts] == [3, 1, 1] and len(set.union(*parts)) == 5
