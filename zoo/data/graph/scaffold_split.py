"""Scaffold splits: molecules with the same rings and linkers are all in one part, so that a test has unseen scaffolds.

The scaffold is that of Bemis and Murcko (J. Med. Chem. 39, 1996): the rings of a molecule and what joins them, without
substituents.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.data.splits import held_out_groups
from zoo.preprocessing.molecule import load_rdkit, read_smiles


def scaffold_of(molecule: Any) -> str:
    """The canonical SMILES of the scaffold of a molecule of rdkit, without stereochemistry; "" without a ring."""
    chem = load_rdkit("scaffolds")
    from rdkit.Chem.Scaffolds import MurckoScaffold

    return str(chem.MolToSmiles(MurckoScaffold.GetScaffoldForMol(molecule), isomericSmiles=False))


def scaffold_groups(smiles: Sequence[str]) -> tuple[Tensor, list[str]]:
    """(number of the scaffold of each molecule int64 [N], the scaffolds). All molecules without a ring are one group.

    Raises: ValueError that names the molecule that cannot be read.
    """
    found = [scaffold_of(read_smiles(text, f"molecule {i}")) for i, text in enumerate(smiles)]
    scaffolds = list(dict.fromkeys(found))
    number = {scaffold: i for i, scaffold in enumerate(scaffolds)}
    return torch.tensor([number[scaffold] for scaffold in found], dtype=torch.int64), scaffolds


def scaffold_split(smiles: Sequence[str], *, validation: float = 0.1, test: float = 0.1,
                   seed: int = 0) -> dict[str, Tensor]:  # fmt: skip
    """Rows of molecules for training, validation and test, with whole scaffolds in each.

    Args:
        smiles: The molecules.
        validation, test: Fractions of the molecules, which are met as closely as the sizes of the scaffolds allow.
        seed: Decides which scaffolds are held out.

    Returns: {"train", "validation", "test": int64 rows}.

    Raises: ValueError for a molecule that cannot be read, fractions that leave nothing to train on, and molecules that
        all have one scaffold.
    """
    if min(validation, test) < 0 or validation + test >= 1:
        raise ValueError(f"validation={validation}, test={test}: expected fractions whose sum is less than 1")
    groups, scaffolds = scaffold_groups(smiles)
    if len(scaffolds) < 1 + (validation > 0) + (test > 0):
        raise ValueError(f"the molecules have {len(scaffolds)} scaffolds: expected one for each part at least")
    rows = torch.arange(len(groups))
    parts = {}
    for name, fraction in (("test", test), ("validation", validation)):
        none = torch.zeros(len(rows), dtype=torch.bool)
        classes = torch.zeros(len(rows), dtype=torch.int64)
        held = held_out_groups(groups[rows], classes, fraction * len(groups) / len(rows), seed) if fraction else none
        parts[name], rows = rows[held], rows[~held]
    return {"train": rows, "validation": parts["validation"], "test": parts["test"]}
