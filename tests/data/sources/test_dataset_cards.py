"""Dataset cards: readable without torch, found in a checkout and in an installed package."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from zoo.data.sources import dataset_cards
from zoo.data.sources.dataset_cards import Card, list_cards, load_card


def test_known_cards() -> None:
    assert {"cifar10", "synthetic_images"} <= set(list_cards())
    card = load_card("cifar10")
    assert card.hub == "uoft-cs/cifar10" and card.columns == {"image": "img", "label": "label"}
    assert len(card.labels) == 10 and len(card.mean) == len(card.std) == card.image["channels"]


@pytest.mark.parametrize("name", list_cards())
def test_every_card_is_complete(name: str) -> None:
    card = load_card(name)
    assert card.name == name and card.license and card.source and card.task and {"train", "test"} <= set(card.splits)


def test_unknown_name_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="did you mean 'cifar10'"):
        load_card("cifar")
    (tmp_path / "mine.yaml").write_text("name: mine\nlicence: MIT\n")
    (tmp_path / "less.yaml").write_text("name: less\n")
    (tmp_path / "list.yaml").write_text("- name\n")
    monkeypatch.setattr(dataset_cards, "_FOLDERS", (tmp_path,))
    with pytest.raises(ValueError, match=r"mine\.yaml: unknown key 'licence'; did you mean 'license'"):
        load_card("mine")
    with pytest.raises(ValueError, match="missing"):
        load_card("less")
    with pytest.raises(ValueError, match="expected a mapping"):
        load_card("list")


def test_an_installed_package_reads_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cards").mkdir()
    text = "name: x\ntitle: X\ntask: t\nreal: true\nlicense: MIT\nsource: s\n"
    (tmp_path / "cards" / "x.yaml").write_text(text)
    monkeypatch.setattr(dataset_cards, "_FOLDERS", (tmp_path / "cards", tmp_path / "data"))
    assert list_cards() == ["x"] and isinstance(load_card("x"), Card)


def test_the_wheel_carries_every_card() -> None:
    root = Path(dataset_cards.__file__).parents[3]
    if not (root / "pyproject.toml").is_file():
        pytest.skip("an installed package, not a checkout")
    build = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["force-include"] == {f"data/{name}.yaml": f"zoo/data/cards/{name}.yaml" for name in list_cards()}


def test_settings_and_cards_bring_no_torch() -> None:
    code = "import sys, zoo.data.config, zoo.data.sources.dataset_cards, zoo.data; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
