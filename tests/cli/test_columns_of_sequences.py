"""`zoo predict` and the examples of `zoo export` with tables of molecules and proteins: which column is read."""

import csv
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.cli.main import main
from zoo.data.sources.labeled_examples import read_examples
from zoo.preprocessing.molecule import MoleculeProcessor
from zoo.preprocessing.protein import ProteinProcessor
from zoo.utils.errors import DataError

ITEMS = {"molecule": ["CCO", "c1ccccc1", "CC(=O)N"], "protein": ["MKTAYIAK", "GAVLW", "MK"]}
NAMES = {"molecule": "smiles", "protein": "sequence"}
SMALL: dict[str, Any] = dict(width=16, depth=1, heads=2, mlp_dim=16, num_classes=2, head="classify", seed=0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """molecule/ and protein/, classifiers with random weights."""
    path: Path = tmp_path_factory.mktemp("sequences")
    molecules = MoleculeProcessor()
    made = {
        "molecule": zoo.create_model("graph_transformer_tiny", in_features=molecules.in_features,
                                     edge_dim=molecules.edge_dim, **SMALL),
        "protein": zoo.create_model("esm2_t6_8m", max_length=32, **SMALL),
    }  # fmt: skip
    for name, model in made.items():
        model.preprocess = molecules if name == "molecule" else ProteinProcessor(max_length=32)
        model.labels = ["no", "yes"]
        zoo.save(model, path / name)
    return path


def table(folder: Path, kind: str, column: str) -> Path:
    rows = [f"{number},{item},{'yes' if number % 2 else 'no'}" for number, item in enumerate(ITEMS[kind])]
    file = folder / f"{kind}.csv"
    file.write_text("\n".join([f"number,{column},class", *rows]) + "\n")
    return file


@pytest.mark.parametrize("kind", ITEMS)
def test_predictions_of_a_column(kind: str, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = zoo.load(folders / kind), tmp_path / "out.csv"
    expected = [label for ((label, _),) in zoo.predict(model, ITEMS[kind], top_k=1)]
    usual = table(tmp_path, kind, NAMES[kind])
    assert main(["predict", str(folders / kind), str(usual), "--out", str(out)]) == 0
    assert f"{kind}s from column '{NAMES[kind]}'" in capsys.readouterr().err
    with open(out, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == expected and [row["number"] for row in rows] == ["0", "1", "2"]

    other = table(tmp_path, kind, "compound")
    assert main(["predict", str(folders / kind), str(other)]) == 2
    assert "--column" in capsys.readouterr().err
    again = ["predict", str(folders / kind), str(other), "--column", "compound", "--out", str(out), "--overwrite"]
    assert main(again) == 0
    assert f"{kind}s from column 'compound'" in capsys.readouterr().err
    with open(out, encoding="utf-8", newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == expected
    for flag in ("--text-column", "--image-column"):
        assert main(["predict", str(folders / kind), str(other), flag, "compound"]) == 2
        assert f"{flag}: the model takes {kind}s, use --column" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ITEMS)
def test_labeled_examples_of_a_column(kind: str, folders: Path, tmp_path: Path) -> None:
    model = zoo.load(folders / kind)
    expected = list(zip(ITEMS[kind], ["no", "yes", "no"]))
    assert read_examples(model, table(tmp_path, kind, NAMES[kind])) == expected
    other = table(tmp_path, kind, "compound")
    assert read_examples(model, other, "compound") == expected
    with pytest.raises(DataError, match=f"name the {kind} column"):
        read_examples(model, other)
    with pytest.raises(DataError, match=f"is a folder: expected a table of {kind}s"):
        read_examples(model, tmp_path)
