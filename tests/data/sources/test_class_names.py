"""Names for numbered labels, and labels that look like the same class: named, merged only if the settings say so."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from zoo.data.audio.load import load_audio
from zoo.data.config import AudioDataSettings, DataSettings, TextDataSettings
from zoo.data.image.load import load_images
from zoo.data.sources.class_names import look_alikes
from zoo.data.text.load import load_texts
from zoo.utils.errors import DataError


def table(folder: Path, labels: list[object], name: str = "train.csv") -> Path:
    file = folder / name
    file.write_text("text,label\n" + "".join(f'text {i},"{label}"\n' for i, label in enumerate(labels)))
    return file


def load(file: Path, **options: object) -> object:
    return load_texts(TextDataSettings(name=str(file), **options))  # type: ignore[arg-type]


# --- names of numbers ---


@pytest.mark.parametrize("first", [0, 1])
def test_names_are_in_the_order_of_the_numbers(tmp_path: Path, first: int) -> None:
    file = table(tmp_path, [first + i % 3 for i in range(60)])
    sets = load(file, class_names=["low", "middle", "high"])
    assert sets.classes == ["low", "middle", "high"] and sets.notes == []
    pairs = zip(sets.train.texts, sets.train.labels.tolist())
    assert all(label == int(text.split()[1]) % 3 for text, label in pairs)


def test_names_that_are_numbers_themselves_are_not_taken_for_labels(tmp_path: Path) -> None:
    sets = load(table(tmp_path, [i % 2 for i in range(40)]), class_names=["1", "0"])
    pairs = zip(sets.train.texts, sets.train.labels.tolist())
    assert sets.classes == ["1", "0"] and all(label == int(text.split()[1]) % 2 for text, label in pairs)


def test_more_than_ten_names_and_a_file_of_them(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("".join(f"class {'abcdefghijkl'[i]}\n" for i in range(12)))
    sets = load(table(tmp_path, [i % 12 for i in range(120)]), class_names=str(names))
    pairs = zip(sets.train.texts, sets.train.labels.tolist())
    assert len(sets.classes) == 12 and all(label == int(text.split()[1]) % 12 for text, label in pairs)


@pytest.mark.parametrize(("labels", "names", "says"), [
    ([0, 1, 2], ["a", "b"], r"has 2 names, and .*train\.csv has 3 different labels in 'label' \(0, 1, 2\)"),
    ([0, 1], ["a", "b", "c"], "has 3 names, and .* has 2 different labels"),
    ([0, 1], ["a", "a"], "class_names=: more than one class is called a"),
    ([0, 1], ["a", " "], "name 2 of 2 is empty"),
    (["x", "y"], ["a", "b"], r"gives names to labels that are whole numbers, and those of .* are not, e\.g\. 'x'"),
    ([0.5, 1.25], ["a", "b"], "labels that are whole numbers"),
    ([0, 1], "names.txt", r"class_names=names\.txt: no such file; give a file with a name a line, or a list"),
])  # fmt: skip
def test_names_that_do_not_fit_are_refused(tmp_path: Path, labels: list, names: object, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load(table(tmp_path, labels * 10), class_names=names)


def test_a_test_label_without_a_name_is_refused(tmp_path: Path) -> None:
    table(tmp_path, [0, 1] * 10)
    table(tmp_path, [0, 1, 2], "test.csv")
    with pytest.raises(DataError, match=r"test\.csv, line 4: label '2' is not among the training labels \(0, 1\)"):
        load(tmp_path, class_names=["a", "b"])


def test_names_are_for_labels_of_one_column_of_your_own_data(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("text,a,b\n" + "x,0,1\ny,1,0\n" * 20)
    with pytest.raises(DataError, match="several label columns have the names of their columns"):
        load(file, label="a,b", class_names=["a", "b"])
    with pytest.raises(DataError, match="class_names= with problem_type=regression"):
        load(table(tmp_path, [1, 2] * 10), problem_type="regression", class_names=["a", "b"])
    with pytest.raises(ValueError, match="the classes of synthetic data have names"):
        TextDataSettings(name="synthetic", class_names=["a", "b"])


def test_an_empty_label_is_skipped_as_without_names(tmp_path: Path) -> None:
    sets = load(table(tmp_path, [0, 1, ""] * 20), class_names=["a", "b"], on_error="skip")
    assert sets.train.labels.bincount().tolist() == [18, 18] and len(sets.test) == 4


def images(folder: Path, labels: list[object]) -> Path:
    rows = []
    for i, label in enumerate(labels):
        Image.new("RGB", (8, 8), (i * 5 % 255, 10, 20)).save(folder / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "label": label})
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_images_and_clips_have_them_as_well(tmp_path: Path) -> None:
    file = images(tmp_path, [1 + i % 2 for i in range(24)])
    sets = load_images(DataSettings(name=str(file), class_names=["zebra", "ape"]))
    assert sets.classes == ["zebra", "ape"] and sets.train.labels.bincount().tolist() == [11, 11]
    assert sets.train.images[sets.train.labels == 0].flatten(1)[:, 0].remainder(10).unique().tolist() == [0]
    soundfile = pytest.importorskip("soundfile")
    for i in range(24):
        soundfile.write(tmp_path / f"{i}.wav", torch.full((2000,), 0.1 if i % 2 else -0.1).numpy(), 8000)
    clips = tmp_path / "clips.csv"
    clips.write_text("audio,label\n" + "".join(f"{i}.wav,{5 + i % 2}\n" for i in range(24)))
    found = load_audio(AudioDataSettings(name=str(clips), class_names=["zebra", "ape"]))
    assert found.classes == ["zebra", "ape"]
    assert all((found.train.clips[i][0] < 0) == (found.train.labels[i] == 0) for i in range(len(found.train)))


# --- labels that look alike ---


def test_groups_that_differ_in_case_spaces_or_forms_of_characters() -> None:
    counts = {"Pos": 3, "pos": 9, " pos ": 1, "neg": 4, "caf\u00e9": 1, "cafe\u0301": 2, "cafe": 5}
    assert look_alikes(counts) == [["pos", "Pos", " pos "], ["cafe\u0301", "caf\u00e9"]]


LABELS = ["Pos", "pos", "pos", " pos ", "neg"] * 8


def test_labels_that_look_alike_are_named_and_stay_apart(tmp_path: Path) -> None:
    sets = load(table(tmp_path, LABELS))
    assert sets.classes == [" pos ", "Pos", "neg", "pos"]
    assert len(sets.notes) == 1 and "'pos' (16), ' pos ' (8), 'Pos' (8)" in sets.notes[0]
    assert "data.normalize_labels=true" in sets.notes[0]


def test_normalize_labels_takes_them_as_the_most_frequent_one_and_says_so(tmp_path: Path) -> None:
    sets = load(table(tmp_path, LABELS), normalize_labels=True)
    counts = sets.train.labels.bincount() + sets.test.labels.bincount()
    assert sets.classes == ["neg", "pos"] and counts.tolist() == [8, 32]
    assert sets.notes == ["normalize_labels=true takes 'pos' (16), ' pos ' (8), 'Pos' (8) as 'pos'"]


def test_several_labels_are_looked_at_one_by_one(tmp_path: Path) -> None:
    file = table(tmp_path, ["Food|service", "food", "Service"] * 10)
    options = {"problem_type": "multi_label_classification"}
    assert len(load(file, **options).classes) == 4 and len(load(file, **options).notes) == 1
    assert load(file, normalize_labels=True, **options).classes == ["Food", "Service"]


def test_folders_of_classes_that_look_alike(tmp_path: Path) -> None:
    for name in ("Cat", "cat ", "dog"):
        (tmp_path / name).mkdir()
        for i in range(12):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / name / f"{i}.png")
    sets = load_images(DataSettings(name=str(tmp_path)))
    assert sets.classes == ["Cat", "cat ", "dog"] and "'Cat' (12), 'cat ' (12)" in sets.notes[0]
    one = load_images(DataSettings(name=str(tmp_path), normalize_labels=True))
    assert one.classes == ["Cat", "dog"] and len(one.train) + len(one.test) == 36


def test_other_labels_have_no_notes(tmp_path: Path) -> None:
    assert load(table(tmp_path, ["pos", "neg"] * 10)).notes == []
    assert load(table(tmp_path, [1, 2] * 10)).notes == []
