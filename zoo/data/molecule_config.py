"""Data options of molecules. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass
from typing import Literal

from zoo.data.base_config import LabelSettings


@dataclass(frozen=True, kw_only=True)
class MoleculeDataSettings(LabelSettings):
    """Labeled molecules for classification or regression.

    Attributes:
        name: Dataset: `synthetic` (generated molecules; also `auto`), a table (.csv .tsv .jsonl .json .parquet), a
            folder with a train table and optional validation and test tables, or `name` or `org/name` on the Hugging
            Face Hub (`org/name:config` for one of its configurations).
        data_dir: Folder of the files of a real dataset with a card; there is none of molecules.
        smiles: Column of the molecules, as SMILES strings.
        label: Column of the values or classes. Several comma-separated columns of zeros and ones are multi-label
            targets, several columns of other numbers a regression of all of them; empty cells are left out of the loss.
            Synthetic molecules have `logp` and `rings`.
        problem_type: `single_label_classification`, `multi_label_classification` or `regression`. `auto` infers it from
            the labels.
        validation: Table to validate on. Default: the validation split of the dataset, or else the fraction
            `trainer.val_fraction` of the training molecules.
        test: Table to test on. Default: the test split of the dataset, or else 10 % of the training molecules.
        split: How molecules are held out for validation and test: `scaffold` holds out whole Bemis-Murcko scaffolds,
            `random` single molecules. `auto` is `scaffold`, or with `group_column=` the groups of that column.
        on_error: How to handle a SMILES string that cannot be read, or an incomplete row: `raise` an error that names
            it, or `skip` it with a warning.
    """

    smiles: str = ""
    label: str = ""
    problem_type: Literal["auto", "single_label_classification", "multi_label_classification", "regression"] = "auto"
    validation: str | None = None
    test: str | None = None
    split: Literal["auto", "scaffold", "random"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split not in ("auto", "scaffold", "random"):
            raise ValueError(f"split={self.split!r}: expected 'auto', 'scaffold' or 'random'")
        if self.group_pattern:
            raise ValueError("group_pattern= is for folders of files: give a column with group_column=")
        if self.group_column and self.split != "auto":
            raise ValueError(f"group_column={self.group_column} and split={self.split} are both given: give only one "
                             f"of them")  # fmt: skip

    @property
    def by_scaffold(self) -> bool:
        """Whether whole scaffolds are held out."""
        return self.split == "scaffold" or (self.split == "auto" and not self.group_column)
