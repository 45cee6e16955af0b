"""Text for language modeling: datasets of the hub, which are read as the other recipes read them."""

from typing import Any

import pytest
import torch

from zoo.data.config import CorpusSettings, LinesSettings, StreamSettings
from zoo.data.sources.hub import HubError
from zoo.data.text.corpus import characters, ids_of, load_corpus
from zoo.utils.errors import DataError


def hub_of(monkeypatch: pytest.MonkeyPatch, **splits: dict[str, Any]) -> list[tuple[str, ...]]:
    """A hub that has these splits; the names that it was asked for."""
    import datasets

    asked = []

    def load_dataset(*names: str) -> datasets.DatasetDict:
        asked.append(names)
        return datasets.DatasetDict({name: datasets.Dataset.from_dict(columns) for name, columns in splits.items()})

    monkeypatch.setattr("zoo.data.sources.hub.reachable", lambda *_: True)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


LINES = ["", " = A title = ", "the first text", "", "the second", *[f"line {i}" for i in range(20)]]


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("settings", [StreamSettings, LinesSettings])
@pytest.mark.parametrize("name, asked", [("org/name", ("org/name",)), ("org/name:raw", ("org/name", "raw")),
                                         ("imdb", ("imdb",))])  # fmt: skip
def test_the_training_texts_of_a_hub_dataset(
    settings: type, name: str, asked: tuple[str, ...], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    calls = hub_of(monkeypatch, train={"text": LINES}, validation={"text": ["held out"]}, test={"text": ["test"]})
    corpus = load_corpus(settings(name=name))
    assert calls == [asked] and corpus.real and corpus.name == name
    assert corpus.texts == [line for line in LINES if line] and corpus.source == f"hub {name}, training texts"
    assert "only the split train is read, not validation, test" in capsys.readouterr().err
    parts = corpus.split_lines(0.2, seed=0)
    assert len(parts.train) + len(parts.test) == 23


@pytest.mark.usefixtures("online")
def test_columns_of_a_hub_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_of(monkeypatch, train={"title": ["a"] * 3, "story": ["one", None, "two"]})
    assert load_corpus(CorpusSettings(name="org/name", text="story")).texts == ["one", "two"]
    with pytest.raises(DataError, match="has the columns title, story: name the text column"):
        load_corpus(CorpusSettings(name="org/name"))
    with pytest.raises(DataError, match="encoding= are for your own tables, but data=org/name is read from files of"):
        load_corpus(CorpusSettings(name="org/name", text="story", encoding="cp1252"))
    hub_of(monkeypatch, train={"text": [" ", ""]})
    with pytest.raises(DataError, match="hub org/name, training texts is empty: expected some text"):
        load_corpus(CorpusSettings(name="org/name"))


def test_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.data.sources.hub.reachable", lambda *_: False)
    with pytest.raises(HubError, match=r"data='org/name': expected a file or folder that exists, a hub dataset .* is "
                                       r"not in the local cache"):  # fmt: skip
        load_corpus(CorpusSettings(name="org/name"))
    with pytest.raises(DataError, match=r"data='absent\.txt': expected a file or folder that exists, or one of"):
        load_corpus(CorpusSettings(name="absent.txt"))


@pytest.mark.parametrize("text", ["To be, or not\nto be é 中 😀", "unknown: Ω", "the name <unk> itself", ""])
def test_ids_of_characters_are_those_of_the_library(text: str) -> None:
    tokenizer = characters("To be, or not\nto be é 中 😀 unkwithmselfy <>:", 8)
    (encoded,) = tokenizer.backend.encode_batch([text], add_special_tokens=False)
    assert ids_of(text, tokenizer).tolist() == encoded.ids and ids_of(text, tokenizer).dtype == torch.int32
