"""SMILES strings as graphs of atoms and bonds, their features, and what is said about those that cannot be read."""

import json
from pathlib import Path

import pytest
import torch

from zoo.preprocessing.auto import processor_from_dict
from zoo.preprocessing.modality import MODALITIES, of_file
from zoo.preprocessing.molecule import (
    BOND_FEATURES,
    ELEMENTS,
    MoleculeProcessor,
    molecule_graph,
    read_smiles,
    read_smiles_file,
)
from zoo.preprocessing.molecule_display import molecule_html, plot_molecule

chem = pytest.importorskip("rdkit.Chem", reason="molecules need the extra `molecules`")

SMILES = ["CCO", "c1ccccc1", "[Na+].[Cl-]", "C", "[H][H]", "*C", "F/C=C/F", "F/C=C\\F", "N[C@@H](C)C(=O)O", "C[Si](C)C"]


def row(graph, part: str, atom: int = 0) -> list[float]:
    """The columns of one feature of an atom, as the table of the module has them."""
    widths = {"element": len(ELEMENTS) + 1, "degree": 7, "charge": 6, "hydrogens": 6, "hybridization": 6, "label": 2,
              "aromatic": 1, "ring": 1}  # fmt: skip
    assert sum(widths.values()) == graph.node_features.shape[1] == MoleculeProcessor().in_features
    start = sum(width for name, width in widths.items() if list(widths).index(name) < list(widths).index(part))
    return graph.node_features[atom, start : start + widths[part]].tolist()


def graph_of(smiles: str):
    return molecule_graph(read_smiles(smiles))


def test_atoms_and_bonds_have_the_features_of_the_table() -> None:
    ethanol = graph_of("CCO")
    assert ethanol.num_nodes == 3 and ethanol.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert row(ethanol, "element", 2).index(1) == ELEMENTS.index("O")
    assert [row(ethanol, "degree", i).index(1) for i in range(3)] == [1, 2, 1]
    assert [row(ethanol, "hydrogens", i).index(1) for i in range(3)] == [3, 2, 1]
    assert row(ethanol, "hybridization", 0).index(1) == 2 and sum(row(ethanol, "aromatic")) == 0
    benzene = graph_of("c1ccccc1")
    assert row(benzene, "aromatic") == [1] and row(benzene, "ring") == [1]
    assert benzene.edge_features[0].tolist() == [0, 0, 0, 1, 0, 1, 1, 0, 0] and BOND_FEATURES == 9
    assert [row(graph_of("[Na+].[Cl-]"), "charge", i).index(1) for i in range(2)] == [3, 1]
    assert row(graph_of("[U]"), "element")[-1] == 1 and row(graph_of("*C"), "element")[-1] == 1
    assert torch.equal(graph_of("CC#N").edge_features[2:, :5].argmax(1), torch.tensor([2, 2]))


def test_mirror_images_and_sides_of_double_bonds_differ_in_one_feature() -> None:
    left, right = graph_of("N[C@@H](C)C(=O)O"), graph_of("N[C@H](C)C(=O)O")
    assert [row(left, "label", 1), row(right, "label", 1)] == [[0, 1], [1, 0]]
    assert (left.node_features != right.node_features).sum() == 2
    opposite, same = graph_of("F/C=C/F"), graph_of("F/C=C\\F")
    assert opposite.edge_features[2, -2:].tolist() == [1, 0] and same.edge_features[2, -2:].tolist() == [0, 1]


@pytest.mark.parametrize("smiles", ["CC(N)Cc1ccc(O)cc1", "C[C@H](O)C(=O)NC1CC1", "C/C=C/c1ccncc1", "[NH4+].[Cl-]"])
def test_features_do_not_depend_on_how_the_molecule_is_written(smiles: str) -> None:
    molecule = read_smiles(smiles)
    order = torch.randperm(molecule.GetNumAtoms(), generator=torch.Generator().manual_seed(0))
    other = molecule_graph(read_smiles(chem.MolToSmiles(chem.RenumberAtoms(molecule, order.tolist()), canonical=False)))
    one = molecule_graph(molecule)
    assert one.num_edges == other.num_edges == 2 * molecule.GetNumBonds()
    for ours, theirs in ((one.node_features, other.node_features), (one.edge_features, other.edge_features)):
        assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, theirs.tolist()))


def test_a_batch_has_all_molecules_without_padding() -> None:
    processor = MoleculeProcessor()
    batch, alone = processor(SMILES), [processor(text) for text in SMILES]
    assert batch["graph_sizes"].tolist() == [3, 6, 2, 1, 2, 2, 4, 4, 6, 4]
    for name in ("node_features", "edge_features"):
        assert torch.equal(batch[name], torch.cat([each[name] for each in alone]))
    assert batch["edge_index"].max() < len(batch["node_features"]) == 34
    assert processor("C")["edge_index"].shape == (2, 0) and processor("C")["edge_features"].shape == (0, BOND_FEATURES)


@pytest.mark.parametrize(
    ("smiles", "message"),
    [
        ("C1CC", "molecule 1: 'C1CC' is not the SMILES of a molecule: unclosed ring"),
        ("CC(C)(C)(C)C", "molecule 1: 'CC(C)(C)(C)C' is not the SMILES of a molecule: Explicit valence for atom # 1 C"),
        ("c1cccc1", "Can't kekulize mol"),
        ("hello", "molecule 1: 'hello' is not the SMILES of a molecule: syntax error"),
        ("CCO ethanol", "molecule 1: 'CCO ethanol' has spaces in it"),
        (" ", "molecule 1 is empty"),
        (3, "molecule 1 is int, expected a SMILES string"),
    ],
)
def test_what_is_wrong_with_which_molecule(smiles: object, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError) as error:
        MoleculeProcessor()(["CCO", smiles])
    if hasattr(__import__("rdkit.rdBase").rdBase, "CaptureErrorLog") or "syntax" not in message:
        assert message in str(error.value)
    assert not capfd.readouterr().err, "rdkit's log is in the message"


def test_molecules_of_rdkit_are_what_their_smiles_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    molecule, processor = chem.MolFromSmiles("N[C@@H](C)C(=O)O"), MoleculeProcessor()
    expected = processor("N[C@@H](C)C(=O)O")
    for given in (molecule, [chem.AddHs(molecule)]):
        assert all(torch.equal(x, expected[name]) for name, x in processor(given).items())
    with pytest.raises(ValueError, match="molecule 1 is empty"):
        processor([molecule, chem.Mol()])
    (tmp_path / "a.sdf").write_text(chem.MolToMolBlock(molecule))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"molecule 0: 'a\.sdf' is a file: expected a SMILES string"):
        processor(["a.sdf"])


def test_an_empty_list_and_other_objects() -> None:
    with pytest.raises(ValueError, match="the list of molecules is empty"):
        MoleculeProcessor()([])
    with pytest.raises(ValueError, match="expected a SMILES string or a list of them, given int"):
        MoleculeProcessor()(3)
    with pytest.raises(ValueError, match="expected symbols of elements, each once"):
        MoleculeProcessor(elements=("C", "C"))


def test_saved_and_read_again() -> None:
    processor = MoleculeProcessor(elements=("C", "N", "O"), bonds=False)
    assert processor_from_dict(json.loads(json.dumps(processor.to_dict()))) == processor
    assert "edge_features" not in processor("CCl") and processor("CCl")["node_features"].shape == (2, 33)


def test_files_and_pictures(tmp_path: Path) -> None:
    file = tmp_path / "one.smi"
    file.write_text("CCO ethanol\n")
    assert of_file(file) is MODALITIES["molecule"] and read_smiles_file(file) == "CCO"
    assert 'aria-label="a &lt; b"' in molecule_html(file, "a < b")
    file.write_text("CCO\nCCN\n")
    with pytest.raises(ValueError, match="has 2 molecules: expected a file of one"):
        read_smiles_file(file)
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    plot_molecule(axes, "c1ccccc1O")
    assert len(axes.images) == 1
