"""Alignments of protein families: files (A3M, aligned FASTA, Stockholm), and numbers for a model.

An alignment is read in the columns of its first sequence, the query: residues that others have between two residues of
the query (insertions) are dropped and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from zoo.preprocessing.fasta import GAPS, OTHER_RESIDUES, RESIDUES, STOP, read_lines, read_records
from zoo.utils.errors import DataError, check_choice

UNKNOWN, GAP, MASK = 20, 21, 22  # after the 20 residues; no file has a mask
Format = Literal["auto", "a3m", "fasta", "stockholm"]
A3M, STOCKHOLM, ALIGNED = (".a3m",), (".sto", ".stockholm"), (".afa",)
SUFFIXES = tuple(name + zipped for name in (*A3M, *STOCKHOLM, *ALIGNED) for zipped in ("", ".gz"))
# Residues are 0 to 19; any other letter of IUPAC (X, B, Z, J, U, O) is unknown.
_IDS = {letter: i for i, letter in enumerate(RESIDUES)} | dict.fromkeys(OTHER_RESIDUES, UNKNOWN)
_IDS |= dict.fromkeys(GAPS, GAP)
# Records of HH-suite's A3M files that are no sequences: predicted and known secondary structure, accessibility.
_ANNOTATIONS = ("ss_pred", "ss_conf", "ss_dssp", "sa_pred", "sa_dssp", "aa_pred", "aa_dssp")


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Aligned sequences, the query first.

    names: of the sequences. rows: strings of equal length in upper case, with "-" for gaps; the query has none.
    insertions: for each sequence the number of residues that are dropped, because the query has none at their place.
    """

    names: tuple[str, ...]
    rows: tuple[str, ...]
    insertions: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def query(self) -> str:
        """The residues of the query."""
        return self.rows[0]

    @classmethod
    def of_rows(cls, rows: Sequence[str], names: Sequence[str] = (), *, where: str = "the alignment",
                unknown: Literal["error", "X"] = "error") -> Self:  # fmt: skip
        """An alignment of strings of equal length, of residues in any case and "-" or "." for gaps.

        Args:
            rows: The sequences, the query first.
            names: Their names. Default: "row 1", "row 2" and so on.
            where: What the alignment is called in messages.
            unknown: What a character is that is neither a residue nor a gap: an error, or X, any residue.

        Raises: ValueError that names the row: for no rows, rows of unequal length, unknown characters, and a query
            without residues; and for another number of names than of rows.
        """
        check_choice("unknown", unknown, ("error", "X"))
        names = tuple(names) or tuple(f"row {i}" for i in range(1, len(rows) + 1))
        if not rows:
            raise ValueError(f"{where} has no sequences: expected at least one, the query")
        if len(names) != len(rows):
            raise ValueError(f"{where} has {len(rows)} sequences and {len(names)} names: expected a name for each")
        for number, (name, row) in enumerate(zip(names, rows), 1):
            if len(row) != len(rows[0]):
                more = f"{abs(len(row) - len(rows[0]))} {'more' if len(row) > len(rows[0]) else 'fewer'}"
                raise ValueError(f"{where}: sequence {number} ({name}) has {len(row)} columns, {more} than the query "
                                 f"({names[0]}), which has {len(rows[0])}: all rows of an alignment have equal "
                                 f"length")  # fmt: skip
        clean = [_clean(row, f"{where}: sequence {number} ({name})", unknown)
                 for number, (name, row) in enumerate(zip(names, rows), 1)]  # fmt: skip
        kept = [i for i, letter in enumerate(clean[0]) if letter != "-"]
        if not kept:
            raise ValueError(f"{where}: the query ({names[0]}) has no residues: expected at least one letter of "
                             f"{RESIDUES}")  # fmt: skip
        found = tuple("".join([row[i] for i in kept]) for row in clean)
        dropped = tuple(len(row) - row.count("-") - (len(new) - new.count("-")) for row, new in zip(clean, found))
        return cls(names=names, rows=found, insertions=dropped)

    def ids(self) -> Tensor:
        """Residues int64 [S, N]: 0 to 19 in the order ARNDCQEGHILKMFPSTWYV, 20 for an unknown one, 21 for a gap."""
        return torch.tensor([[_IDS[letter] for letter in row] for row in self.rows])


def read_alignment(path: str | Path, *, format: Format = "auto", unknown: Literal["error", "X"] = "error") -> Alignment:
    """Read an alignment, plain or compressed with gzip; the first sequence is the query.

    In A3M lower-case letters are insertions and "." stands for none: both are dropped, and what is left of each row has
    the columns of the query. A query in lower case alone has no insertions, dots of a row that otherwise lacks columns
    are gaps, a "*" at the end is removed, and records of HH-suite with secondary structure (ss_pred and so on) are left
    out. In aligned FASTA and Stockholm files letters of both cases are residues.

    Args:
        path: The file.
        format: "a3m", "fasta" (aligned), "stockholm", or "auto", by the name of the file: .a3m, .sto or .stockholm, any
            other is FASTA.
        unknown: See `Alignment.of_rows`.

    Raises: FileNotFoundError, and DataError that names the file and the row; see `Alignment.of_rows`.
    """
    check_choice("format", format, get_args(Format))
    path = Path(path)
    kind = format_of(path) if format == "auto" else format
    if kind == "stockholm":
        names, rows = _stockholm(path)
    else:
        records = [own for own in read_records(path) if kind != "a3m" or own.name not in _ANNOTATIONS]
        names, rows = [record.name for record in records], [record.sequence for record in records]
    inserted = [0] * len(rows)
    if kind == "a3m":
        rows, inserted = _without_insertions(rows)
    try:
        found = Alignment.of_rows(rows, names, where=str(path), unknown=unknown)
    except ValueError as error:
        raise DataError(str(error)) from None
    insertions = tuple(a + b for a, b in zip(found.insertions, inserted))
    return Alignment(names=found.names, rows=found.rows, insertions=insertions)


def format_of(path: str | Path) -> Format:
    """The format of a file by its name."""
    name = Path(path).name.lower().removesuffix(".gz")
    return "a3m" if name.endswith(A3M) else "stockholm" if name.endswith(STOCKHOLM) else "fasta"


def write_a3m(path: str | Path, alignment: Alignment) -> None:
    """Write an alignment as an A3M file; insertions, which are not kept, are not written."""
    lines = [f">{name}\n{row}\n" for name, row in zip(alignment.names, alignment.rows)]
    Path(path).write_text("".join(lines), encoding="utf-8")


def letters_of(msa: Tensor) -> tuple[str, ...]:
    """The rows of an alignment int64 [S, N] as strings."""
    letters = RESIDUES + "X-"
    return tuple("".join([letters[i] for i in row]) for row in msa.tolist())


def _without_insertions(rows: Sequence[str]) -> tuple[list[str], list[int]]:
    """(the rows of an A3M file in the columns of the query, the number of insertions of each)."""
    rows = [row.removesuffix(STOP) for row in rows]
    if rows and not any(letter.isupper() for letter in rows[0]):
        rows[0] = rows[0].upper()
    found: list[str] = []
    for row in rows:
        matched = "".join([letter for letter in row if not letter.islower()])
        columns = matched.replace(".", "")
        dots_are_gaps = bool(found) and len(columns) < len(found[0]) == len(matched)
        found.append(matched.replace(".", "-") if dots_are_gaps else columns)
    return found, [sum(letter.islower() for letter in row) for row in rows]


def _clean(row: str, where: str, unknown: str) -> str:
    letters = row.upper().replace(".", "-")
    if all(letter in _IDS for letter in letters):
        return letters
    found = []
    for place, letter in enumerate(letters, 1):
        if letter not in _IDS and unknown == "error":
            raise ValueError(f"{where} has the unknown letter {letter!r} in column {place}: expected "
                             f"{RESIDUES + OTHER_RESIDUES} and - for a gap; unknown='X' reads it as X, any "
                             f"residue")  # fmt: skip
        found.append(letter if letter in _IDS else "X")
    return "".join(found)


def _stockholm(path: Path) -> tuple[list[str], list[str]]:
    """(names, rows) of the first alignment of a Stockholm file, whose rows may come in several blocks."""
    lines = read_lines(path)
    if not lines or not lines[0].startswith("# STOCKHOLM"):
        raise DataError(f"{path} is not a Stockholm file: expected '# STOCKHOLM 1.0' in its first line")
    parts: dict[str, list[str]] = {}
    block = set[str]()
    for number, line in enumerate(lines[1:], 2):
        if line.startswith("//"):
            break
        if not line.strip():
            block.clear()
        if line.startswith("#") or not line.strip():
            continue
        words = line.split()
        if len(words) != 2:
            raise DataError(f"{path}, line {number}: expected a name and a row of the alignment, found {line[:40]!r}")
        if words[0] in block:
            raise DataError(f"{path}, line {number}: the name {words[0]} is there twice; give each sequence its own, "
                            "and put an empty line before each block")  # fmt: skip
        block.add(words[0])
        parts.setdefault(words[0], []).append(words[1])
    if not parts:
        raise DataError(f"{path} has no sequences: expected lines with a name and a row of the alignment")
    return list(parts), ["".join(row) for row in parts.values()]
