"""Several texts as one, each with a held-out part of its own."""

from pathlib import Path

import pytest

from zoo.data.text import mixture
from zoo.data.text.corpus import Corpus
from zoo.data.text.mixture import limited, load_mixture
from zoo.data.text.parallel import ParallelTexts
from zoo.data.text.python_source import load_python_source
from zoo.data.text_config import MixtureSettings
from zoo.utils.errors import DataError


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a.txt").write_text("a" * 90 + "A" * 10)
    (tmp_path / "b.txt").write_text("b" * 360 + "B" * 40)
    for i in range(20):
        (tmp_path / f"code{i}.py").write_text(f"value = {i}\n")
    monkeypatch.setattr(mixture, "load_python_source", lambda **options: load_python_source(tmp_path, **options))
    return tmp_path


def test_every_part_is_held_out_in_proportion(files: Path) -> None:
    a, b = files / "a.txt", files / "b.txt"
    text = load_mixture(MixtureSettings(name=f"{a}+python_source+{b}"), 0.1)
    assert text.train.texts[0] == "a" * 90 and text.test.texts[0] == "A" * 10
    assert text.train.texts[-1] == "b" * 360 and text.test.texts[-1] == "B" * 40
    code = [line for line in text.train.texts + text.test.texts if line.startswith("value")]
    assert len(code) == 20 and any(line.startswith("value") for line in text.test.texts)
    assert text.real and text.name.count("+") == 2 and "Python files" in text.source


def test_no_part_outweighs_the_others(files: Path) -> None:
    settings = MixtureSettings(name=f"{files / 'a.txt'}+{files / 'b.txt'}", max_characters=90)
    text = load_mixture(settings, 0.1)
    assert [len(part) for part in text.train.texts] == [90, 90] and [len(part) for part in text.test.texts] == [10, 10]
    corpus = Corpus([str(i) * 10 for i in range(10)], "x", True, "x")
    chosen = limited(corpus, 35, seed=0).texts
    assert sum(map(len, chosen)) == 35 and len(chosen) == 4 and chosen == sorted(chosen)
    assert chosen == limited(corpus, 35, seed=0).texts != limited(corpus, 35, seed=1).texts


def test_captions_in_english(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pairs:
        train, source = ParallelTexts(["one dog", "two dogs"], ["ein Hund", "zwei Hunde"]), "files"

    monkeypatch.setattr(mixture, "load_parallel_texts", lambda settings: Pairs)
    text = load_mixture(MixtureSettings(name="multi30k"), 0.25)
    assert text.train.text + text.test.text == "one dog\ntwo dogs" and "English" in text.source


def test_texts_that_are_missing(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = files / "absent.txt"
    with pytest.raises(DataError, match=r"absent\.txt.*; on_missing=skip leaves it out"):
        load_mixture(MixtureSettings(name=f"{absent}+python_source"), 0.1)
    text = load_mixture(MixtureSettings(name=f"{absent}+{files / 'a.txt'}", on_missing="skip"), 0.1)
    assert text.train.texts == ["a" * 90] and "left out of the text: " in capsys.readouterr().err
    with pytest.raises(DataError, match="none of the texts is there"):
        load_mixture(MixtureSettings(name=f"{absent}+{files / 'other.txt'}", on_missing="skip"), 0.1)
    with pytest.raises(DataError, match=r"absent\.txt"):
        load_mixture(MixtureSettings(name=str(absent), on_missing="skip"), 0.1)
    with pytest.raises(DataError, match="all different"):
        load_mixture(MixtureSettings(name="python_source+python_source"), 0.1)
    with pytest.raises(DataError, match="val_fraction=0 leaves no text"):
        load_mixture(MixtureSettings(name="python_source"), 0)
    with pytest.raises(DataError, match=r"^val_fraction=1\.0 leaves no text for training"):  # not a text to leave out
        load_mixture(MixtureSettings(name="python_source+synthetic", on_missing="skip"), 1.0)
