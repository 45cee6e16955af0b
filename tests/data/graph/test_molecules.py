"""Datasets of molecules: the synthetic ones, tables of SMILES, scaffold splits, fingerprints, batches."""

from pathlib import Path

import pytest
import torch

from zoo.data.keyed_batches import Keys
from zoo.preprocessing.molecule import MoleculeProcessor, read_smiles
from zoo.utils.errors import DataError

chem = pytest.importorskip("rdkit.Chem", reason="molecules need the extra `molecules`")

from zoo.data.graph.molecules import Molecules, MoleculesDataModule, fingerprints, load_molecules  # noqa: E402
from zoo.data.graph.scaffold_split import scaffold_groups, scaffold_of, scaffold_split  # noqa: E402
from zoo.data.molecule_config import MoleculeDataSettings  # noqa: E402
from zoo.data.sources.dataset_cards import load_card  # noqa: E402
from zoo.data.synthetic import molecules  # noqa: E402

RINGS = ["C1CCCCC1", "c1ccccc1", "c1ccncc1", "C1CCOC1", "c1ccsc1", "C1CCNC1", "c1ccc2ccccc2c1", "C1CC1"]
MANY = [f"{'C' * i}{ring}" for ring in RINGS for i in range(5)]


@pytest.fixture(autouse=True)
def few_molecules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.data.synthetic.molecules.MOLECULES", 120)
    monkeypatch.setattr("zoo.data.synthetic.molecules.SCAFFOLDS", 20)


def table(folder: Path, rows: list[tuple[str, object]], header: str = "smiles,value") -> Path:
    file = folder / "molecules.csv"
    file.write_text(header + "\n" + "".join(f"{smiles},{value}\n" for smiles, value in rows))
    return file


def test_synthetic_molecules_are_different_valid_and_the_same_each_time() -> None:
    found = molecules.make_molecules(150, scaffolds=40, seed=3)
    assert found == molecules.make_molecules(150, scaffolds=40, seed=3) != molecules.make_molecules(150, seed=4)
    assert len({chem.MolToSmiles(read_smiles(text)) for text in found}) == 150
    assert 20 < len(scaffold_groups(found)[1]) <= 41
    for text, rings in zip(found[:5], molecules.properties(found, "rings")):
        assert rings == read_smiles(text).GetRingInfo().NumRings()
    assert len({letter for text in found for letter in text} & set("NOSFI[")) == 6


def test_the_card_tells_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    card = load_card("synthetic_molecules")
    assert not card.real and list(card.columns) == ["smiles", *molecules.PROPERTIES]
    monkeypatch.undo()
    assert sum(card.splits.values()) == molecules.MOLECULES


def test_more_molecules_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(molecules, "SUBSTITUENTS", ["C", "F"])
    monkeypatch.setattr(molecules, "ON_NITROGEN", ["C"])
    monkeypatch.setattr(molecules, "MOST_REPEATED", 300)
    with pytest.raises(ValueError, match=r"n=100000: 1 scaffolds gave \d+ different molecules: expected fewer"):
        molecules.make_molecules(100_000, scaffolds=1, seed=0)


def test_all_parts_of_the_generator_give_molecules() -> None:
    for ring in molecules.RINGS:
        for substituent in ("", "(C)"):
            parts = ring.replace("_", substituent).replace("~", substituent)
            assert read_smiles("C" + parts).GetRingInfo().NumRings() in (1, 2), ring


def test_the_scaffold_is_the_rings_and_what_joins_them() -> None:
    assert scaffold_of(read_smiles("CCc1ccc(CC2CC(N)C2)cc1")) == "c1ccc(CC2CCC2)cc1"
    assert scaffold_of(read_smiles("N[C@@H](C)C(=O)O")) == ""


def test_no_scaffold_is_in_two_parts() -> None:
    parts = scaffold_split(MANY, validation=0.2, test=0.2, seed=1)
    assert sorted(torch.cat([*parts.values()]).tolist()) == list(range(len(MANY)))
    found = [{scaffold_of(read_smiles(MANY[i])) for i in rows.tolist()} for rows in parts.values()]
    assert sum(map(len, found)) == len(set.union(*found)) == len(RINGS) and all(found)
    assert abs(len(parts["test"]) - 8) <= 5 and scaffold_split(MANY, seed=1)["test"].tolist() != parts["test"].tolist()
    with pytest.raises(ValueError, match="molecule 1: 'C1' is not the SMILES"):
        scaffold_split(["CC", "C1"])
    with pytest.raises(ValueError, match="have 1 scaffolds"):
        scaffold_split(["CC", "CCC"])
    with pytest.raises(ValueError, match="sum is less than 1"):
        scaffold_split(MANY, test=0.9, validation=0.1)


@pytest.mark.parametrize("name", ["synthetic", "table"])
def test_training_validation_and_test_share_no_scaffold(name: str, tmp_path: Path) -> None:
    name = str(table(tmp_path, [(text, i / 10) for i, text in enumerate(MANY)])) if name == "table" else name
    label = "value" if name != "synthetic" else ""
    sets = load_molecules(MoleculeDataSettings(name=name, label=label)).with_validation(0.2, seed=0)
    found = [{scaffold_of(read_smiles(text)) for text in part.smiles} for part in sets.parts]
    assert len(found) == 3 and all(found) and sum(map(len, found)) == len(set.union(*found))
    assert sets.problem_type == "regression" and sets.real == (label == "value")
    assert sum(len(part) for part in sets.parts) == (120 if name == "synthetic" else len(MANY))
    assert "scaffolds are in one split each" in sets.notes[-1]


def test_molecules_one_by_one_and_by_a_column(tmp_path: Path) -> None:
    rows = [(text, f"{i % 2},{i % 6}") for i, text in enumerate(MANY)]
    file = str(table(tmp_path, rows, "SMILES,active,batch"))
    sets = load_molecules(MoleculeDataSettings(name=file, label="active", split="random"))
    assert sets.train.group_ids is None and sets.classes == ["0", "1"] and len(sets.test) == 4
    batches = load_molecules(MoleculeDataSettings(name=file, label="active", group_column="batch"))
    assert not {*batches.train.group_ids.tolist()} & {*batches.test.group_ids.tolist()}
    with pytest.raises(ValueError, match="are both given"):
        MoleculeDataSettings(name=file, group_column="batch", split="scaffold")


def test_a_smiles_string_that_cannot_be_read_is_named_or_skipped(tmp_path: Path) -> None:
    rows = [(text, i / 10) for i, text in enumerate(MANY)]
    rows[3] = ("C1CC", 0.5)
    file = table(tmp_path, rows)
    settings = MoleculeDataSettings(name=str(file), label="value")
    with pytest.raises(
        DataError, match=r"molecules.csv, line 5: the molecule in 'smiles': 'C1CC' is not the SMILES of"
    ):
        load_molecules(settings)
    sets = load_molecules(MoleculeDataSettings(name=str(file), label="value", on_error="skip"))
    assert len(sets.train) + len(sets.test) == len(MANY) - 1 and "line 5" in sets.skipped[0]
    with pytest.raises(DataError, match="smiles=structure"):
        load_molecules(MoleculeDataSettings(name=str(file), smiles="structure"))
    with pytest.raises(DataError, match="synthetic molecules have the properties logp, rings"):
        load_molecules(MoleculeDataSettings(label="weight"))


def test_a_test_table_with_the_scaffolds_of_training_is_noted(tmp_path: Path) -> None:
    file = table(tmp_path, [(text, i / 10) for i, text in enumerate(MANY)])
    (tmp_path / "test.csv").write_text("smiles,value\nCCc1ccccc1Cl,0.3\nC1CCCCCC1,0.4\n")
    sets = load_molecules(MoleculeDataSettings(name=str(file), label="value", test=str(tmp_path / "test.csv")))
    assert sets.notes == ["1 of 2 molecules of the test table have a scaffold of the training table"]


def test_batches_and_what_a_linear_model_sees() -> None:
    sets = load_molecules(MoleculeDataSettings(label="rings", max_train_samples=40)).with_validation(0.2, seed=0)
    data = MoleculesDataModule(sets, MoleculeProcessor(), batch_size=8)
    batch = data.train.__getitems__(Keys([5, 0], 0))
    assert batch["labels"].tolist() == sets.train.labels[[5, 0]].tolist()
    assert batch["graph_sizes"].tolist() == [read_smiles(sets.train.smiles[i]).GetNumAtoms() for i in (5, 0)]
    assert torch.equal(data.simple_features("test", torch.tensor([0])), fingerprints(sets.test.smiles[:1]))
    twice = fingerprints(["CCCC", "CC"])
    assert twice.shape == (2, 2048) and twice.max() > 1  # counts
    assert isinstance(sets.train.select(torch.tensor([1])), Molecules)
