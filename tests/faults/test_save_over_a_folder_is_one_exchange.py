"""Who reads a folder while it is saved again sees one model: the labels of one never meet the weights of another."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import edit_json
from safetensors.torch import load_file, save_file

import zoo
from zoo.preprocessing.tokenizer_training import train as train_tokenizer


def model(seed: int, labels: list[str]) -> zoo.Model:
    made = zoo.create_model("vit_cifar_tiny", depth=1, width=16, heads=2, num_classes=2, seed=seed).eval()
    made.labels = labels
    return made


def vit(seed: int, labels: list[str]) -> zoo.Model:
    """A model that other libraries have, too."""
    sizes = {"depth": 1, "width": 16, "heads": 2, "image_size": 16, "patch_size": 8, "norm_eps": 1e-6}
    made = zoo.create_model("vit_base_patch16_224", num_classes=2, seed=seed, **sizes).eval()
    made.labels = labels
    return made


BEFORE, AFTER = model(1, ["cat", "dog"]), model(2, ["dog", "cat"])


def seen(folder: Path, *models: zoo.Model) -> str:
    """Which model a reader of the folder sees, of two."""
    try:
        read = zoo.load(folder)
    except zoo.LoadError:
        return "refused"
    weights = [
        all(torch.equal(a, b) for a, b in zip(read.state_dict().values(), one.state_dict().values(), strict=True))
        for one in (models or (BEFORE, AFTER))
    ]
    return {("cat", True, False): "before", ("dog", False, True): "after"}.get((read.labels[0], *weights), "a mixture")


def test_between_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, states = tmp_path / "model", []
    zoo.save(BEFORE, folder)

    def spied(rename: Callable[..., Any]) -> Callable[..., Any]:
        def renamed(*args: Any, **options: Any) -> Any:
            done = rename(*args, **options)
            states.append(seen(folder))
            return done

        return renamed

    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, spied(getattr(os, name)))
    zoo.save(AFTER, folder)
    monkeypatch.undo()
    assert set(states) <= {"before", "after"} and seen(folder) == "after"


def test_in_the_middle_of_a_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved again after the first, the second ... JSON file that the reader parsed."""
    folder, parse, states = tmp_path / "model", json.loads, []
    zoo.save(BEFORE, folder)
    parsed: list[str] = []
    monkeypatch.setattr(json, "loads", lambda text, **options: parsed.append(text) or parse(text, **options))
    assert seen(folder) == "before"
    monkeypatch.undo()
    for after in range(len(parsed)):
        zoo.save(BEFORE, folder)
        remaining = iter(range(after, -1, -1))

        def loads(text: str, remaining: Iterator[int] = remaining, **options: Any) -> Any:
            if next(remaining) == 0:
                monkeypatch.undo()
                zoo.save(AFTER, folder)
            return parse(text, **options)

        monkeypatch.setattr(json, "loads", loads)
        states.append(seen(folder))
    assert states and set(states) <= {"before", "after", "refused"}


@pytest.mark.parametrize("part", ["labels", "preprocess"])
def test_verify_sees_labels_and_preprocessing_of_another_model(part: str, tmp_path: Path) -> None:
    zoo.save(BEFORE, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    assert zoo.verify(tmp_path / "model").ok
    processor = json.loads(config.read_text())["preprocess"] | {"mean": [0.1, 0.2, 0.3], "std": [0.3, 0.3, 0.3]}
    edit_json(config, **{part: {"labels": ["dog", "cat"], "preprocess": processor}[part]})
    with suppress(zoo.LoadError):
        assert not zoo.verify(tmp_path / "model").ok


@pytest.mark.parametrize("part", ["labels", "preprocess", "tokenizer"])
def test_verify_names_what_differs_in_labels_and_preprocessing(part: str, tmp_path: Path) -> None:
    made = zoo.create_model("bert_tiny", head="classify", num_classes=2, vocab_size=40, depth=1, width=16, heads=2)
    made.preprocess = train_tokenizer("wordpiece", ["a b c d e f"], 40, max_length=16)
    made.labels = ["cat", "dog"]
    folder = zoo.save(made.eval(), tmp_path / "model")
    assert zoo.verify(folder).ok
    if part == "tokenizer":
        text = (folder / "tokenizer.json").read_text()
        (folder / "tokenizer.json").write_text(text.replace('"lowercase":true', '"lowercase":false'))
    else:
        processor = json.loads((folder / "config.json").read_text())["preprocess"] | {"max_length": 8}
        edit_json(folder / "config.json", **{part: {"labels": ["dog", "cat"], "preprocess": processor}[part]})
    found = zoo.verify(folder)
    expected = {
        "labels": "labels is ['dog', 'cat'], saved as ['cat', 'dog']",
        "preprocess": "preprocess.max_length is 8, saved as 16",
        "tokenizer": "tokenizer.json is ",
    }[part]
    assert not found.ok and expected in str(found) and found.difference <= found.tolerance


def test_verify_says_that_an_older_folder_has_no_record_of_labels(tmp_path: Path) -> None:
    folder = zoo.save(BEFORE, tmp_path / "model")
    save_file(load_file(folder / "golden.safetensors"), folder / "golden.safetensors", {"format": "pt"})
    found = zoo.verify(folder)
    assert found.ok and "labels and preprocessing are not recorded" in str(found)


@pytest.mark.parametrize("write", [zoo.save, partial(zoo.export, format="timm"), zoo.export], ids=["zoo", "timm", "hf"])
def test_a_reader_beside_a_writer_sees_one_model(write: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    models = [vit(1, ["cat", "dog"]), vit(2, ["dog", "cat"])]
    write(models[0], folder)
    if (writer := os.fork()) == 0:
        for number in range(1, 16):
            write(models[number % 2], folder)
        os._exit(0)
    states = set()
    while not os.waitpid(writer, os.WNOHANG)[0]:
        states.add(seen(folder, *models))
    assert states and states <= {"before", "after"}


def test_the_card_belongs_to_the_model_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.save(BEFORE, tmp_path / "model", readme="before")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    zoo.save(AFTER, tmp_path / "model", readme="after")
    assert (tmp_path / "model" / "README.md").read_text() == "after"
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"
    zoo.save(BEFORE, tmp_path / "model")
    assert (tmp_path / "model" / "README.md").read_text() == "after", "a README without a new one is kept"
