"""A JSON file that gives a key twice is refused by the name of the key: no reader can know which value is meant."""

from collections.abc import Callable
from pathlib import Path

import pytest

import zoo


def ours(folder: Path) -> None:
    model = zoo.create_model("vit_cifar_tiny", depth=1, width=16, heads=2, num_classes=2, seed=0).eval()
    model.labels = ["cat", "dog"]
    zoo.save(model, folder)


def theirs(folder: Path) -> None:
    zoo.export(zoo.create_model("bert_tiny", depth=1, width=16, heads=2, vocab_size=99, seed=0).eval(), folder)


@pytest.mark.parametrize(
    ("make", "key", "value"),
    [(ours, "labels", '["dog", "cat"]'), (theirs, "layer_norm_eps", "0.5")],
    ids=["zoo", "transformers"],
)
def test_a_key_twice(make: Callable[[Path], None], key: str, value: str, tmp_path: Path) -> None:
    make(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().rstrip()[:-1].rstrip() + f', "{key}": {value}}}')
    with pytest.raises(zoo.LoadError, match=key):
        zoo.load(tmp_path / "model")
