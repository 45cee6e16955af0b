"""The recipe of molecules from its command line: regression, classes, tables, predictions, plots."""

from pathlib import Path

import pytest
import torch
from recipe_calls import caller, result

import zoo
from zoo.models.registry import list_models
from zoo.training.recipes.molecules_config import MoleculeSettings

pytest.importorskip("rdkit", reason="molecules need the extra `molecules`")
if not list_models("graph_transformer_tiny"):
    pytest.skip("there is no graph_transformer_tiny", allow_module_level=True)

call = caller({"molecules": MoleculeSettings})
TINY = ("model=graph_transformer_tiny", "width=16", "depth=1", "heads=2", "batch_size=8", "accelerator=cpu",
        "precision=fp32", "progress=false", "plots=false")  # fmt: skip
SMILES = ["CCO", "c1ccccc1", "[Na+].[Cl-]", "C", "CC(=O)Nc1ccc(O)cc1"]


@pytest.fixture(autouse=True)
def few_molecules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.data.synthetic.molecules.MOLECULES", 90)
    monkeypatch.setattr("zoo.data.synthetic.molecules.SCAFFOLDS", 20)


def test_logp_of_unseen_scaffolds_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("molecules", tmp_path / "run", *TINY, "steps=3") == 0
    said = capsys.readouterr().out
    for text in ("Synthetic data", "scaffolds are in one split each", "Morgan fingerprints + ridge regression",
                 "test error", "zoo predict"):  # fmt: skip
        assert text in said, text
    assert {"test_error", "test_r2", "test_loss"} == result(tmp_path / "run")["result"].keys()
    model = zoo.load(tmp_path / "run")
    assert model.labels == ["logp"] and model.config.resolved_problem_type == "regression"
    with torch.no_grad():
        together = model.double()(**doubled(model.preprocess(SMILES)))
        alone = torch.cat([model(**doubled(model.preprocess(text))) for text in SMILES])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    from zoo.interpret.plot_molecule import molecule_attention, plot_molecule_attention

    atoms, bonds = molecule_attention(model, SMILES[-1])
    assert atoms.shape == (11,) and bonds.shape == (11,) and float(atoms.min()) > 0
    plot_molecule_attention(model, SMILES[-1], layer="blocks.0.mixer", head=1, path=tmp_path / "attention.png")
    assert (tmp_path / "attention.png").stat().st_size > 5000
    with pytest.raises(ValueError, match=r"no attention layer is named 'blocks\.1\.mixer'"):
        molecule_attention(model, "CCO", layer="blocks.1.mixer")


def test_classes_of_a_table_then_other_classes_from_its_weights(tmp_path: Path) -> None:
    rings = ("C1CCCCC1", "c1ccccc1", "C1CCOC1", "c1ccsc1", "C1CCNC1", "C1CC1")
    rows = [f"{'C' * i}{ring},{'yes' if i % 2 else 'no'},{i}.5\n" for ring in rings for i in range(8)]
    file = tmp_path / "toxic.csv"
    file.write_text("SMILES,toxic,value\n" + "".join(rows))
    words = (f"data={file}", "label=toxic", "split=random", "class_weights=balanced", "steps=2", *TINY)
    assert call("molecules", tmp_path / "one", *words) == 0
    assert zoo.load(tmp_path / "one").labels == ["no", "yes"]
    words = (f"data={file}", "label=value", f"model.source={tmp_path / 'one'}", "steps=2", *TINY[4:])
    assert call("molecules", tmp_path / "two", *words) == 0
    assert zoo.load(tmp_path / "two").labels == ["value"]
    assert call("molecules", tmp_path / "three", *TINY[1:], "model=bert_tiny", "steps=2") == 2


def test_several_columns_with_empty_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the tables of MoleculeNet: values of different units, or zeros and ones, of which some are not known."""
    rows = [f"{'C' * i}{ring},{i}.5,{'' if i % 3 else 100 * i},{'' if i % 4 else i % 8 // 4},{i % 2}\n"
            for ring in ("C1CCCCC1", "c1ccccc1", "C1CCOC1", "c1ccsc1") for i in range(12)]  # fmt: skip
    file = tmp_path / "table.csv"
    file.write_text("smiles,size,weight,toxic,odd\n" + "".join(rows))
    assert call("molecules", tmp_path / "values", f"data={file}", "label=size,weight", "steps=2", *TINY) == 0
    said = capsys.readouterr().out
    for text in ("empty labels are left out of loss and metrics: 32 in 'weight'", "by column", "ridge regression"):
        assert text in said, text
    found = result(tmp_path / "values")
    assert found["columns"].keys() == {"size", "weight"} and found["baseline"]["score"] > 0
    stds = [3.5, 350]  # about those of the training values
    of_columns = [found["columns"][name]["error"] / std for name, std in zip(("size", "weight"), stds)]
    assert sum(of_columns) / 2 == pytest.approx(found["result"]["test_error"], rel=0.2)
    model = zoo.load(tmp_path / "values")
    values = dict(zoo.predict(model, "CCO"))
    assert list(values) == ["size", "weight"] == model.labels and values["weight"] > 50 > values["size"]
    words = (f"data={file}", "label=toxic,odd", "steps=2", "calibration=temperature", *TINY)
    assert call("molecules", tmp_path / "labels", *words) == 0
    assert zoo.load(tmp_path / "labels").config.resolved_problem_type == "multi_label_classification"
    assert found["columns"]["weight"]["labels"] < found["columns"]["size"]["labels"]
    assert call("molecules", tmp_path / "none", *words[:1], "label=toxic,smiles", *TINY) == 2
    assert "expected 0 or 1" in capsys.readouterr().err


def doubled(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}
