"""FASTA files: names, wrapped lines, gzip, and every letter that is not a residue."""

import gzip
from pathlib import Path

import pytest

from zoo.preprocessing.fasta import clean_sequence, is_fasta, read_fasta, read_records
from zoo.utils.errors import DataError

TEXT = ">sp|P1|ONE First protein\r\nMKTA\r\nyiak*\r\n\r\n; a comment\n>two\nAC DE\nXBZUOJ\n"


def write(folder: Path, text: str, name: str = "a.fasta") -> Path:
    (folder / name).write_bytes(text.encode())
    return folder / name


def test_names_descriptions_wrapped_lines_and_lower_case(tmp_path: Path) -> None:
    records = read_fasta(write(tmp_path, TEXT))
    assert [(each.name, each.description, each.sequence, each.line) for each in records] == [
        ("sp|P1|ONE", "First protein", "MKTAYIAK", 1),
        ("two", "", "ACDEXBZUOJ", 6),
    ]
    assert len(records[0]) == 8
    assert [each.sequence for each in read_records(tmp_path / "a.fasta")] == ["MKTAyiak*", "ACDEXBZUOJ"]


def test_gzip_is_found_by_its_contents(tmp_path: Path) -> None:
    plain = read_fasta(write(tmp_path, TEXT))
    packed = tmp_path / "b.fa.gz"
    packed.write_bytes(gzip.compress(TEXT.encode()))
    assert read_fasta(packed) == plain
    packed.write_bytes(gzip.compress(TEXT.encode())[:20])
    with pytest.raises(DataError, match=r"b\.fa\.gz is a damaged gzip file"):
        read_fasta(packed)
    assert [is_fasta(name) for name in ("a.FASTA", "b.fa.gz", "c.gz", "c.txt")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "has no records"),
        ("MKT\n", "line 1: expected a line that begins with '>', found 'MKT'"),
        (">\nMKT\n", "line 1: the record has no name"),
        (">one\n>two\nMKT\n", r"record 'one' \(line 1\) has no residues"),
        (">one\n*\n", r"record 'one' \(line 1\) has no residues"),
        (">one\nMKT\n>two\nMK1T\n", r"record 'two' \(line 3\) has the unknown letter '1' at place 3"),
        (">one\nMK*T\n", r"record 'one' \(line 1\) has a stop inside the sequence, '\*', at place 3"),
        (">one\nMK-T\n", r"record 'one' \(line 1\) has the gap '-' at place 3"),
    ],
)
def test_what_is_refused_names_file_record_and_letter(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(DataError, match=rf"a\.fasta.*{expected}"):
        read_fasta(write(tmp_path, text))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.fasta").write_bytes(b">a\n\xff\xfe\n")
    with pytest.raises(DataError, match="is not a text file in UTF-8"):
        read_fasta(tmp_path / "a.fasta")


def test_gaps_and_unknown_letters_by_option() -> None:
    assert clean_sequence("mk-.t*", gaps="keep") == "MK-.T"
    assert clean_sequence("mk-.t", gaps="remove") == "MKT"
    assert clean_sequence("MK1*T", unknown="X") == "MKXXT"
    assert clean_sequence("mk1t*", unknown="keep") == "MK1T"
    with pytest.raises(ValueError, match="has no residues"):
        clean_sequence("--", gaps="keep")
    with pytest.raises(ValueError, match="gaps is 'drop', expected one of error, remove, keep"):
        clean_sequence("MKT", gaps="drop")  # type: ignore[arg-type]
