"""FASTA files of proteins: names and sequences of residues, and what each letter of them means."""

import gzip
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from zoo.utils.errors import DataError, check_choice
from zoo.utils.lines import split_lines

RESIDUES = "ARNDCQEGHILKMFPSTWYV"
# IUPAC's other letters: any residue, D or N, E or Q, I or L, selenocysteine and pyrrolysine.
OTHER_RESIDUES = "XBZJUO"
GAPS = "-."
STOP = "*"
SUFFIXES = (".fasta", ".fa", ".faa", ".fas", ".fasta.gz", ".fa.gz", ".faa.gz", ".fas.gz")

Gaps = Literal["error", "remove", "keep"]
Unknown = Literal["error", "X", "keep"]


@dataclass(frozen=True, kw_only=True)
class ProteinRecord:
    """One record of a FASTA file. name: the first word after ">". description: the rest of that line. sequence: the
    letters of all its lines together. line: the number of its ">" line, from 1."""

    name: str
    description: str
    sequence: str
    line: int

    def __len__(self) -> int:
        return len(self.sequence)


def read_fasta(path: str | Path, *, gaps: Gaps = "error", unknown: Unknown = "error") -> list[ProteinRecord]:
    """The records of a FASTA file, plain or compressed with gzip, with sequences as `clean_sequence` makes them.

    Raises FileNotFoundError, and DataError that names the file, the record and the letter: for an empty file, text
    before the first ">", a record without a name or without residues, and letters as `clean_sequence` says.
    """
    path = Path(path)
    records = []
    for record in read_records(path):
        where = f"{path}, record {record.name!r} (line {record.line})"
        try:
            sequence = clean_sequence(record.sequence, where, gaps=gaps, unknown=unknown)
        except ValueError as error:
            raise DataError(str(error)) from None
        records.append(replace(record, sequence=sequence))
    return records


def read_records(path: str | Path) -> list[ProteinRecord]:
    """The records of a file with ">" lines (FASTA, A3M), their sequences without spaces and otherwise as written.

    Lines that begin with ";" or "#" are comments, and a NUL byte at the end is skipped. See `read_fasta` for errors.
    """
    path = Path(path)
    records: list[ProteinRecord] = []
    parts: list[str] = []

    def close() -> None:
        if not records:
            return
        last = records[-1]
        if not parts:
            raise DataError(f"{path}, record {last.name!r} (line {last.line}) has no residues: remove it, or add them")
        records[-1] = replace(last, sequence="".join(parts))
        parts.clear()

    for number, line in enumerate(read_lines(path), 1):
        text = line.strip()
        if "\0" in text:  # MMseqs2 ends each alignment of a file with it
            if text.strip("\0"):
                raise DataError(f"{path}, line {number}: another alignment begins, after a NUL byte: expected one in a "
                                f"file, split it there")  # fmt: skip
            continue
        if text.startswith(">"):
            close()
            words = text[1:].split(maxsplit=1)
            if not words:
                raise DataError(f"{path}, line {number}: the record has no name: write one after '>'")
            records.append(ProteinRecord(name=words[0], description="".join(words[1:]), sequence="", line=number))
        elif text and not text.startswith((";", "#")):
            if not records:
                raise DataError(f"{path}, line {number}: expected a line that begins with '>', found {text[:40]!r}")
            parts.append("".join(text.split()))
    close()
    if not records:
        raise DataError(f"{path} has no records: expected lines that begin with '>', each with a sequence after it")
    return records


def clean_sequence(
    sequence: str, where: str = "the sequence", *, gaps: Gaps = "error", unknown: Unknown = "error"
) -> str:
    """A sequence of residues in upper case, without spaces; it has the letters of RESIDUES and OTHER_RESIDUES.

    A lower-case letter, which marks a region of low complexity, is the same residue. A "*" at the end, the stop codon,
    is removed. gaps: "-" and "." of alignments are refused, removed or kept. unknown: what any other character is,
    also a "*" inside the sequence: an error, "X", any residue, or kept. where: what the sequence is called in messages.

    Raises ValueError that names the character and its place, from 1, and for a sequence without residues.
    """
    check_choice("gaps", gaps, get_args(Gaps))
    check_choice("unknown", unknown, get_args(Unknown))
    letters = "".join(sequence.split()).upper().removesuffix(STOP)
    found = []
    for place, letter in enumerate(letters, 1):
        if letter in RESIDUES or letter in OTHER_RESIDUES:
            found.append(letter)
        elif letter in GAPS:
            if gaps == "error":
                raise ValueError(
                    f"{where} has the gap {letter!r} at place {place}: expected residues; gaps='remove' reads it "
                    f"without them, gaps='keep' keeps them"
                )
            found.append(letter if gaps == "keep" else "")
        elif unknown != "error":
            found.append("X" if unknown == "X" else letter)
        else:
            what = "a stop inside the sequence, '*'," if letter == STOP else f"the unknown letter {letter!r}"
            raise ValueError(
                f"{where} has {what} at place {place}: expected {RESIDUES + OTHER_RESIDUES}; unknown='X' reads it as "
                f"X, any residue"
            )
    cleaned = "".join(found)
    if not cleaned.strip(GAPS):
        raise ValueError(f"{where} has no residues: expected at least one letter of {RESIDUES}")
    return cleaned


def named_sequences(path: str | Path) -> list[tuple[str, str]]:
    """(name, sequence) of each record of a FASTA file; see `read_fasta`."""
    return [(record.name, record.sequence) for record in read_fasta(path)]


def read_sequence(item: str | Path, *, unknown: Unknown = "error") -> str:
    """A sequence itself, or that of the one record of a FASTA file, see `read_fasta`. Raises ValueError for a file of
    several."""
    if not (isinstance(item, Path) or is_fasta(item)):
        return item
    records = read_fasta(item, unknown=unknown)
    if len(records) > 1:
        raise ValueError(
            f"{item} has {len(records)} records, expected one: zoo.preprocessing.fasta.read_fasta reads all"
        )
    return records[0].sequence


def is_fasta(name: str | Path) -> bool:
    """Whether a file is a FASTA file by its name."""
    return str(name).lower().endswith(SUFFIXES)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, plain or compressed with gzip. Raises DataError for a damaged one."""
    raw = path.read_bytes()
    try:
        raw = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}") from None
    try:
        return split_lines(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file in UTF-8: {error}") from None
