"""Molecules as graphs: SMILES strings -> atoms as nodes, bonds as edges, read by rdkit (the extra `molecules`).

Features of an atom, 30 numbers and one for each of the `elements`, all 0 or 1:

| feature | values | width |
|---|---|---|
| element | those of `elements`, another one | 1 for each element + 1 |
| degree: number of neighbors in the graph | 0, 1, 2, 3, 4, 5, more | 7 |
| formal charge | -2, -1, 0, 1, 2, another one | 6 |
| hydrogens that are not nodes | 0, 1, 2, 3, 4, more | 6 |
| hybridization | sp, sp2, sp3, sp3d, sp3d2, another one | 6 |
| chirality (CIP label) | R, S | 2 |
| aromatic, in a ring | yes | 1 + 1 |

Features of a bond, 9 numbers: order (single, double, triple, aromatic, another one; 5), conjugated, in a ring, and
stereo (E, Z; 2). A bond is two edges, one in each direction, in the order of the bonds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from zoo.preprocessing.graph import Graph, batch_graphs
from zoo.preprocessing.processor import Processor
from zoo.utils.type_checks import check_types

if TYPE_CHECKING:
    Molecule = str | Any  # a SMILES string, or a molecule of rdkit

ELEMENTS = ("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Se", "Br", "I")
DEGREES, CHARGES, HYDROGENS = (0, 1, 2, 3, 4, 5), (-2, -1, 0, 1, 2), (0, 1, 2, 3, 4)
HYBRIDIZATIONS = ("SP", "SP2", "SP3", "SP3D", "SP3D2")
LABELS = ("R", "S")
ORDERS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
STEREO = (("STEREOE", "STEREOTRANS"), ("STEREOZ", "STEREOCIS"))
ATOM_FEATURES = sum(len(values) + 1 for values in (DEGREES, CHARGES, HYDROGENS, HYBRIDIZATIONS)) + len(LABELS) + 3
BOND_FEATURES = len(ORDERS) + 1 + 2 + len(STEREO)
SHOWN = 60  # characters of a SMILES string in messages


def load_rdkit(task: str = "reading SMILES") -> Any:
    """The module rdkit.Chem. Raises: ImportError that says how to install it."""
    try:
        from rdkit import Chem
    except ImportError:
        raise ImportError(f"{task} needs rdkit: pip install attention-zoo[molecules]") from None
    return Chem


def read_smiles(smiles: Any, name: str = "") -> Any:
    """A SMILES string as a molecule of rdkit, or a molecule of rdkit as its SMILES string would be read.

    Hydrogens are no atoms of it, apart from those that rdkit keeps, such as in [H][H] and [2H]O[2H]. Parts that no bond
    connects, such as the ions of a salt, are one molecule.

    Args:
        smiles: One SMILES string, without a name or further columns after it; or a molecule of rdkit.
        name: What it is called in messages, such as "molecule 3".

    Raises: ValueError with the message of rdkit for what is not the SMILES of a molecule.
    """
    if is_molecule(smiles):
        if not smiles.GetNumAtoms():
            raise ValueError(f"{name or 'the molecule'} is empty, expected one with atoms")
        return load_rdkit().RemoveHs(smiles)
    if not isinstance(smiles, str):
        raise ValueError(f"{name or 'the molecule'} is {type(smiles).__name__}, expected a SMILES string such as 'CCO'")
    text = smiles.strip()
    if not text:
        raise ValueError(f"{name or 'the molecule'} is empty, expected a SMILES string such as 'CCO'")
    shown = f"{name}: {text[:SHOWN]!r}".removeprefix(": ") + " ..." * (len(text) > SHOWN)
    if len(text.split()) > 1:
        raise ValueError(f"{shown} has spaces in it: expected one SMILES string and nothing after it")
    if Path(text).suffix and Path(text).is_file():
        raise ValueError(f"{shown} is a file: expected a SMILES string; the molecules of a table or of another file "
                         "are read first, such as by rdkit")  # fmt: skip
    molecule, problem = _parse(text)
    if molecule is None:
        raise ValueError(f"{shown} is not the SMILES of a molecule: {problem}")
    return molecule


def is_molecule(item: Any) -> bool:
    """Whether an object is a molecule of rdkit."""
    return hasattr(item, "GetAtoms") and hasattr(item, "GetBonds")


def read_smiles_file(item: str | Path) -> str:
    """A SMILES string as it is, or the one in a file (.smi): its first column.

    Raises: ValueError for a file with several molecules.
    """
    if not (isinstance(item, Path) or Path(item).suffix.lower() == ".smi"):
        return item
    lines = [line for line in Path(item).read_text("utf-8").splitlines() if line.strip()]
    if len(lines) != 1:
        raise ValueError(f"{item} has {len(lines)} molecules: expected a file of one, or a table with a column of "
                         f"SMILES strings")  # fmt: skip
    return lines[0].split()[0]


def _parse(text: str) -> tuple[Any, str]:
    """(molecule, "") or (None, what rdkit says)."""
    chem = load_rdkit()
    from rdkit import rdBase

    with rdBase.BlockLogs():
        molecule = chem.MolFromSmiles(text)
        if molecule is not None:
            return molecule, ""
        raw = chem.MolFromSmiles(text, sanitize=False)
        if raw is not None and (problems := chem.DetectChemistryProblems(raw)):
            return None, problems[0].Message().strip()
    if not hasattr(rdBase, "CaptureErrorLog"):  # rdkit before 2026 writes errors of syntax to its log alone
        return None, "its syntax is wrong"
    with rdBase.CaptureErrorLog() as log:
        chem.MolFromSmiles(text)
    lines = [line.split("] ", 1)[-1] for line in log.messages.splitlines()]
    found = [line for line in lines if "Error: " in line]
    words = found[0].split("Error: ", 1)[1] if found else "its syntax is wrong"
    places = [line.split("around ")[1].rstrip(":") for line in lines if "check for mistakes around " in line]
    what = words.split(" for input:")[0].split(" while parsing:")[0]
    return None, f"{what}{f' (at {places[0]})' if places else ''}"


def molecule_graph(molecule: Any, elements: Sequence[str] = ELEMENTS) -> Graph:
    """The graph of a molecule of rdkit, with the features in the table above; its atoms are called C1, C2, O3, ..."""
    nodes = torch.tensor([_atom(atom, elements) for atom in _with_labels(molecule).GetAtoms()], dtype=torch.float32)
    ends, bonds = [], []
    for bond in molecule.GetBonds():
        begin, end = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        ends += [(begin, end), (end, begin)]
        bonds += [_bond(bond)] * 2
    index = torch.tensor(ends, dtype=torch.int64).reshape(-1, 2).T.contiguous()
    names = tuple(f"{atom.GetSymbol()}{atom.GetIdx() + 1}" for atom in molecule.GetAtoms())
    edges = torch.tensor(bonds, dtype=torch.float32).reshape(-1, BOND_FEATURES)
    return Graph(nodes, index, edges, names=names)


def _with_labels(molecule: Any) -> Any:
    """The molecule with the CIP labels of its atoms, which do not depend on the order of the atoms."""
    load_rdkit().AssignStereochemistry(molecule, cleanIt=True)
    return molecule


def _atom(atom: Any, elements: Sequence[str]) -> list[float]:
    label = atom.GetProp("_CIPCode") if atom.HasProp("_CIPCode") else ""
    return [
        *_one_of(atom.GetSymbol(), elements),
        *_one_of(atom.GetDegree(), DEGREES),
        *_one_of(atom.GetFormalCharge(), CHARGES),
        *_one_of(atom.GetTotalNumHs(), HYDROGENS),
        *_one_of(str(atom.GetHybridization()), HYBRIDIZATIONS),
        *(float(label == name) for name in LABELS),
        float(atom.GetIsAromatic()),
        float(atom.IsInRing()),
    ]


def _bond(bond: Any) -> list[float]:
    stereo = str(bond.GetStereo())
    return [
        *_one_of(str(bond.GetBondType()), ORDERS),
        float(bond.GetIsConjugated()),
        float(bond.IsInRing()),
        *(float(stereo in names) for names in STEREO),
    ]


def _one_of(value: Any, known: Sequence[Any]) -> list[float]:
    """1 at the place of the value among the known ones, or at the end."""
    return [float(value == each) for each in known] + [float(value not in known)]


@dataclass(frozen=True, kw_only=True)
class MoleculeProcessor(Processor):
    """SMILES strings -> the batch of their graphs: `node_features`, `edge_index`, `edge_features`, `graph_sizes`.

    A list of strings is a batch, one string a batch of one, and molecules of rdkit do as well; see
    `GraphProcessor` for the shapes, and `zoo.preprocessing.molecule` for the features.

    elements: the elements that have a feature of their own; all others share one.
    bonds: whether there are `edge_features`; a model without `edge_dim` takes none.
    """

    kind: ClassVar[str] = "molecule"
    elements: tuple[str, ...] = ELEMENTS
    bonds: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", tuple(self.elements))
        check_types(self)
        if not self.elements or len(set(self.elements)) < len(self.elements):
            raise ValueError(f"elements={self.elements}: expected symbols of elements, each once")

    @property
    def in_features(self) -> int:
        """Number of features of an atom."""
        return len(self.elements) + ATOM_FEATURES

    @property
    def edge_dim(self) -> int | None:
        """Number of features of a bond; None without them."""
        return BOND_FEATURES if self.bonds else None

    def __call__(self, smiles: "Molecule | Sequence[Molecule]") -> dict[str, Tensor]:
        """smiles: one or a list. Raises: ValueError that names the one that is not the SMILES of a molecule."""
        is_one = isinstance(smiles, str) or is_molecule(smiles)
        return batch_graphs([self.prepare(self.load(smiles))] if is_one else self.graphs(smiles))

    def graphs(self, smiles: "Sequence[Molecule]", names: Sequence[str] | None = None) -> list[Graph]:
        """The graph of each molecule. names: of the molecules in messages; default: "molecule 0", "molecule 1", ...

        Raises: ValueError that names the one that is not the SMILES of a molecule, and for an empty list.
        """
        if not isinstance(smiles, Sequence):
            raise ValueError(f"expected a SMILES string or a list of them, given {type(smiles).__name__}")
        if not smiles:
            raise ValueError("the list of molecules is empty: expected at least one SMILES string")
        names = names or [f"molecule {i}" for i in range(len(smiles))]
        return [self.prepare(self.load(text, name)) for text, name in zip(smiles, names, strict=True)]

    def load(self, item: "Molecule", name: str = "") -> Graph:
        """The graph of one molecule with all features. name: of it in messages."""
        return molecule_graph(read_smiles(item, name), self.elements)

    def prepare(self, graph: Graph, name: str = "") -> Graph:
        """The graph as the model takes it."""
        return graph if self.bonds else replace(graph, edge_features=None)

    def fitted_to(self, config: Any) -> "MoleculeProcessor":
        """The processor for a model with this config: with features of bonds if the model takes them."""
        return replace(self, bonds=getattr(config, "edge_dim", None) is not None)

    def check(self, config: Any) -> None:
        """Raises ValueError unless a model with this config takes features of these widths."""
        for name in ("in_features", "edge_dim"):
            ours, theirs = getattr(self, name), getattr(config, name, None)
            if ours != theirs:
                raise ValueError(f"the preprocessing of molecules gives {name}={ours}, but the model has "
                                 f"{name}={theirs}: they must be equal")  # fmt: skip
