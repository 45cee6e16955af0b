"""Load molecules with values or classes: your own tables of SMILES, Hub datasets or synthetic molecules."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo.data.datamodule import KeyedDataModule
from zoo.data.graph.batches import GraphBatches
from zoo.data.graph.scaffold_split import scaffold_of
from zoo.data.molecule_config import MoleculeDataSettings
from zoo.data.sources.columns import (
    LABEL_NAMES,
    SMILES_NAMES,
    announce_skipped,
    check_column,
    drop_unlabeled_splits,
    find_column,
    find_columns,
)
from zoo.data.sources.find import Source, find_tables
from zoo.data.sources.groups import assign_groups
from zoo.data.sources.label_columns import clean_labels, encode_columns, missing_label, notes_on_missing
from zoo.data.sources.tables import Table
from zoo.data.splits import Items, Splits, with_test
from zoo.data.synthetic import molecules
from zoo.data.text.dataset import groups
from zoo.preprocessing.molecule import MoleculeProcessor, load_rdkit, read_smiles
from zoo.utils.console import announce
from zoo.utils.errors import DataError

FINGERPRINT_RADIUS, FINGERPRINT_BITS = 2, 2048


@dataclass
class Molecules(Items):
    """Labeled molecules.

    Attributes:
        smiles: SMILES strings.
        labels: int64 [N], float32 [N, K] (multi-label, or regression of several values; NaN where there is none) or
            float32 [N] (regression).
    """

    noun: ClassVar[str] = "molecules"

    smiles: list[str]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.smiles)

    def take(self, rows: Tensor) -> "Molecules":
        """The molecules of these rows."""
        return Molecules([self.smiles[i] for i in rows.tolist()], self.labels[rows])

    def groups(self) -> Tensor:
        """The classes; see `groups` of labeled texts."""
        return groups(self.labels)


class MoleculesDataModule(KeyedDataModule):
    """Data module of labeled molecules; see `GraphBatches` for its batches.

    Args:
        splits: Dataset splits from `load_molecules`.
        preprocess: The processor of the model, `model.preprocess`.
        batch_size: Molecules per optimizer step, summed over all devices and accumulation steps.
        options: Options of `KeyedDataModule`.
    """

    features = "Morgan fingerprints"
    standardize = False  # scaled counts would give rare ones the weight of frequent ones
    penalties = (1.0, 10.0, 100.0)

    def __init__(self, splits: Splits[Molecules], preprocess: MoleculeProcessor, batch_size: int = 32,
                 **options: Any) -> None:  # fmt: skip
        def graphs(part: Molecules, training: bool) -> GraphBatches:
            return GraphBatches(preprocess.graphs(part.smiles), part.labels)

        super().__init__(splits, batch_size, dataset=graphs, **options)

    def simple_features(self, stage: str, rows: Tensor) -> Tensor:
        """The Morgan fingerprints of molecules, see `fingerprints`."""
        smiles = self.part(stage).smiles
        return fingerprints([smiles[i] for i in rows.tolist()])


def fingerprints(smiles: list[str]) -> Tensor:
    """Morgan fingerprints with counts (radius 2, 2,048 numbers), float32 [N, 2048].

    Rogers and Hahn, J. Chem. Inf. Model. 50, 2010: how often each neighborhood of an atom is there. Counts predict
    sums over the molecule, such as logP, better than bits do.
    """
    load_rdkit("fingerprints")
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=FINGERPRINT_RADIUS, fpSize=FINGERPRINT_BITS)
    rows = [generator.GetCountFingerprintAsNumPy(read_smiles(text)) for text in smiles]
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def load_molecules(settings: MoleculeDataSettings | None = None, *, seed: int = 0) -> Splits[Molecules]:
    """Load a labeled dataset of molecules.

    Args:
        settings: Dataset and options; see `MoleculeDataSettings`.
        seed: Seed of splits and subsets.

    Raises:
        DataError: An unknown name or column, a missing or malformed file, a SMILES string that cannot be read (with its
            line and what rdkit says), missing labels, or labels of a single class. The message says how to fix it.
    """
    s = settings or MoleculeDataSettings()
    load_rdkit("data of molecules")
    if s.name in ("auto", "synthetic", "synthetic_molecules"):
        source, s = _synthetic(s), replace(s, label=s.label or molecules.PROPERTIES[0])
    else:
        source, s = find_tables(s, "molecules")
    sets = _from_tables(source, s, seed).limited(s.max_train_samples, s.max_test_samples, seed)
    if sets.notice:
        announce(sets.notice)
    return sets


def _synthetic(s: MoleculeDataSettings) -> Source:
    """The table of synthetic molecules with the properties that rdkit computes."""
    if not set(filter(None, map(str.strip, s.label.split(",")))) <= set(molecules.PROPERTIES):
        raise DataError(f"label={s.label}: synthetic molecules have the properties {', '.join(molecules.PROPERTIES)}")
    columns = molecules.make_dataset(molecules.MOLECULES, seed=0)
    return Source({"train": Table(columns, "synthetic molecules")}, "synthetic", "generated molecules")


def _from_tables(source: Source, s: MoleculeDataSettings, seed: int) -> Splits[Molecules]:
    column = find_column(source.tables["train"], s.smiles, "smiles", SMILES_NAMES)
    label = find_columns(source.tables["train"], s.label, "label", LABEL_NAMES)
    tables, notice = drop_unlabeled_splits(source.tables, label)
    tables, notes = clean_labels(tables, label, s)
    read: dict[str, dict[int, Any]] = {}
    broken: list[str] = []
    for split, table in tables.items():
        check_column(table, column, "smiles")
        for name in label:
            check_column(table, name, "label")
        read[split] = _readable(table, column, label, s.on_error == "skip", broken)
    announce_skipped(broken, "rows")
    rows = {split: list(found) for split, found in read.items()}
    problem_type, names, labels = encode_columns(tables, label, rows, s, source.classes)
    sets = {split: Molecules([str(tables[split].columns[column][row]).strip() for row in found], labels[split])
            for split, found in rows.items()}  # fmt: skip
    notes += notes_on_missing(names, labels)
    notes = [*notes, *assign_groups(sets, tables, rows, s, source.where)]
    notes += _assign_scaffolds(sets, read) if s.by_scaffold else []
    real = source.name != "synthetic"
    test_name = (s.test or "") if "test" in sets else f"a held-out part of {source.name}"
    problem = (f"{source.where} has too few molecules of each label to hold some out for testing: add some, or give a "
               f"table to test on (test=)")  # fmt: skip
    sets = with_test(sets, seed, problem, names if problem_type == "single_label_classification" else ())
    return Splits(sets["train"], sets["test"], source.name, real, source.where, validation=sets.get("validation"),
                  classes=names, problem_type=problem_type, notice=notice, test_name=test_name,
                  notes=notes, skipped=broken)  # fmt: skip


def _readable(table: Table, column: str, label: list[str], skip: bool, broken: list[str]) -> dict[int, Any]:
    """{row: molecule of rdkit} of a table. Raises: DataError for a row without one or without a label, unless `skip`"""
    found = {}
    for row in range(len(table)):
        molecule, problem = None, missing_label(table, row, label)
        if not problem:
            try:
                molecule = read_smiles(table.columns[column][row], f"the molecule in {column!r}")
            except ValueError as error:
                problem = str(error)
        if problem and not skip:
            raise DataError(f"{table.place(row)}: {problem} (on_error=skip skips such rows)")
        if problem:
            broken.append(f"{table.place(row)}: {problem}")
        else:
            found[row] = molecule
    if not found:
        raise DataError(f"{table.where}: no row has a molecule and a label")
    return found


def _assign_scaffolds(sets: Mapping[str, Molecules], read: Mapping[str, Mapping[int, Any]]) -> list[str]:
    """Number the scaffolds, so that splits that are held out later have whole ones; notes for the user."""
    scaffolds = {split: [scaffold_of(molecule) for molecule in found.values()] for split, found in read.items()}
    number = {name: i for i, name in enumerate(dict.fromkeys(name for names in scaffolds.values() for name in names))}
    for split, names in scaffolds.items():
        sets[split].group_ids = torch.tensor([number[name] for name in names])
        sets[split].group_option = "split=scaffold"
    notes = [f"scaffolds are in one split each: {len(number):,} scaffolds"]
    for split in sets.keys() - {"train"}:
        shared = sum(name in set(scaffolds["train"]) for name in scaffolds[split])
        if shared:
            notes = [f"{shared:,} of {len(sets[split]):,} molecules of the {split} table have a scaffold of the "
                     f"training table"]  # fmt: skip
    return notes
