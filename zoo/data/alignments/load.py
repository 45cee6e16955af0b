"""Load alignments with contact maps: synthetic families, or folders of files."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo.data.alignment_config import ContactMapSettings
from zoo.data.sources.columns import announce_skipped
from zoo.data.sources.find import SPLIT_NAMES
from zoo.data.sources.fingerprint import note_files
from zoo.data.splits import Items, Splits, with_test
from zoo.data.synthetic import alignments
from zoo.preprocessing.alignment import SUFFIXES, Alignment, letters_of, read_alignment
from zoo.preprocessing.fasta import read_lines
from zoo.utils.array_files import DAMAGED
from zoo.utils.errors import DataError

MAPS = (".npy", ".npz", ".txt")
UNKNOWN_PAIR = -1


@dataclass
class ProteinFamilies(Items):
    """Families of proteins.

    Attributes:
        msas: The alignment of each, residues int64 [S, N], the query first.
        contacts: The contact map of each, int8 [N, N], symmetric: 1 for a contact, 0 for none, -1 where it is unknown.
        names: Their names.
    """

    noun: ClassVar[str] = "families"

    msas: list[Tensor]
    contacts: list[Tensor]
    names: list[str]

    def __len__(self) -> int:
        return len(self.msas)

    def take(self, rows: Tensor) -> "ProteinFamilies":
        """The families of these rows."""
        at = rows.tolist()
        return ProteinFamilies([self.msas[i] for i in at], [self.contacts[i] for i in at], [self.names[i] for i in at])

    def alignment(self, row: int) -> Alignment:
        """The alignment of a family as letters."""
        rows = letters_of(self.msas[row])
        names = (self.names[row], *(f"sequence_{i}" for i in range(2, len(rows) + 1)))
        return Alignment.of_rows(rows, names)


def load_families(settings: ContactMapSettings | None = None, *, seed: int = 0) -> Splits[ProteinFamilies]:
    """Load families of proteins; none is in two splits.

    Args:
        settings: Dataset and options; see `ContactMapSettings`.
        seed: Seed of splits and subsets.

    Raises:
        DataError: A name that is not a folder, a missing or malformed file, a map of another size than the query. The
            message says how to fix it.
    """
    s = settings or ContactMapSettings()
    if s.name in ("auto", "synthetic", "synthetic_alignments"):
        return synthetic_families(s.max_train_samples, s.max_test_samples)
    folder = Path(s.name).expanduser()
    if not folder.is_dir():
        raise DataError(f"data={s.name}: expected synthetic, or a folder of alignments with contact maps")
    broken: list[str] = []
    parts = _parts(folder)
    sets = {split: _of_folder(part, s.on_error == "skip", broken) for split, part in parts.items()}
    announce_skipped(broken, "families")
    sets = with_test(sets, seed, f"{folder} has too few families to hold some out for testing: add some")
    found = Splits(sets["train"], sets["test"], folder.name, True, str(folder), validation=sets.get("validation"),
                   test_name="" if "test" in parts else f"a held-out part of {folder.name}",
                   skipped=broken)  # fmt: skip
    return found.limited(s.max_train_samples, s.max_test_samples, seed)


def synthetic_families(train: int = 0, test: int = 0) -> Splits[ProteinFamilies]:
    """The synthetic dataset; 0 takes its own numbers of families to train and to test on.

    Families to validate and to test on have their own seeds, so that they are the same however many are trained on.
    """
    counts = {"train": train or alignments.TRAIN, "validation": min(test or alignments.VALIDATION,
              alignments.VALIDATION), "test": test or alignments.TEST}  # fmt: skip
    sets = {}
    for number, (split, count) in enumerate(counts.items()):
        made = alignments.make_families(count, seed=number)
        sets[split] = ProteinFamilies([family.msa for family in made], [family.contacts.to(torch.int8) for family in
                                      made], [f"synthetic_{split}_{i}" for i in range(count)])  # fmt: skip
    return Splits(sets["train"], sets["test"], "synthetic", False, "protein families sampled from Potts models",
                  validation=sets["validation"])  # fmt: skip


def read_contact_map(path: str | Path, length: int) -> Tensor:
    """The contact map of a protein of `length` residues, int8 [N, N]; see `ProteinFamilies`.

    .npy, or .npz with the array `contacts` or a single array: [N, N] of 0 and 1, or false and true; -1 or NaN where it
    is not known. .txt: two numbers of residues from 1 in each line, a contact; lines that begin with # are comments.

    Raises: FileNotFoundError, and DataError for a map that is not symmetric, of another size, or with other values, and
        for a damaged file.
    """
    path = Path(path)
    note_files([path])
    values = _pairs(path, length) if path.suffix.lower() == ".txt" else _array(path)
    if values.shape != (length, length):
        raise DataError(f"{path}: the contact map is {list(values.shape)}, but the query has {length} residues: "
                        f"expected [{length}, {length}]")  # fmt: skip
    if values.dtype.kind not in "biuf":
        raise DataError(f"{path}: the contact map has {values.dtype} values: expected numbers, 1 for a contact and 0 "
                        f"for none")  # fmt: skip
    known = np.nan_to_num(values.astype(np.float64), nan=UNKNOWN_PAIR)
    if not np.isin(known, (UNKNOWN_PAIR, 0, 1)).all():
        other = known[~np.isin(known, (UNKNOWN_PAIR, 0, 1))][0]
        raise DataError(f"{path}: the contact map has the value {other:g}: expected 1 for a contact and 0 for none, -1 "
                        f"or NaN where it is unknown; of distances, save distances < 8")  # fmt: skip
    if (known != known.T).any():
        i, j = np.argwhere(known != known.T)[0] + 1
        raise DataError(f"{path}: the contact map is not symmetric: residues {i} and {j} differ from {j} and {i}")
    return torch.from_numpy(known.astype(np.int8))


def _array(path: Path) -> np.ndarray:
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            names = found.files
            if len(names) != 1 and "contacts" not in names:
                raise DataError(f"{path} has the arrays {', '.join(names) or 'none'}: expected one, 'contacts'")
            return np.asarray(found["contacts" if "contacts" in names else names[0]])
    except (DataError, FileNotFoundError):
        raise
    except DAMAGED as error:
        raise DataError(f"{path} is not a file of numpy: {error}") from None


def _pairs(path: Path, length: int) -> np.ndarray:
    found = np.zeros((length, length), dtype=np.int8)
    for number, line in enumerate(read_lines(path), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 2 or not all(word.isdecimal() and 1 <= int(word) <= length for word in words[:2]):
            raise DataError(f"{path}, line {number}: {line[:40]!r}: expected two "
                            f"numbers of residues from 1 to {length}")  # fmt: skip
        i, j = int(words[0]) - 1, int(words[1]) - 1
        found[i, j] = found[j, i] = 1
    return found


def _parts(folder: Path) -> dict[str, Path]:
    """The folder of each split; the folder itself is that of `train` if it has no folder of this name."""
    named = {split: folder / name for split, names in SPLIT_NAMES.items() for name in names if (folder / name).is_dir()}
    return {"train": folder} | named


def _of_folder(folder: Path, skip: bool, broken: list[str]) -> ProteinFamilies:
    files = sorted(path for path in folder.iterdir() if path.name.lower().endswith(SUFFIXES))
    if not files:
        raise DataError(f"{folder} has no alignments: expected files that end with {', '.join(SUFFIXES[::2])}, each "
                        f"with a contact map of the same name ({', '.join(MAPS)})")  # fmt: skip
    found = ProteinFamilies([], [], [])
    for path in files:
        try:
            msa, contacts = _family(path)
        except ValueError as error:
            if not skip:
                raise DataError(f"{error} (on_error=skip skips such families)") from None
            broken.append(str(error))
            continue
        found.msas.append(msa)
        found.contacts.append(contacts)
        found.names.append(_stem(path))
    if not found.names:
        raise DataError(f"{folder}: no alignment has a contact map that can be read")
    return found


def _family(path: Path) -> tuple[Tensor, Tensor]:
    choices = [path.with_name(_stem(path) + suffix) for suffix in MAPS]
    own = next((choice for choice in choices if choice.is_file()), None)
    if own is None:
        raise DataError(f"{path} has no contact map: expected {' or '.join(choice.name for choice in choices)}")
    note_files([path])
    msa = read_alignment(path).ids()
    return msa, read_contact_map(own, msa.shape[1])


def _stem(path: Path) -> str:
    """The name of a file without the suffix of an alignment."""
    return next(path.name[: -len(suffix)] for suffix in sorted(SUFFIXES, key=len, reverse=True)
                if path.name.lower().endswith(suffix))  # fmt: skip
