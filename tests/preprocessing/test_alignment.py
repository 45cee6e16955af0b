"""Alignments: files of three formats, errors that name the row, and batches."""

import gzip

import pytest
import torch

from zoo.preprocessing.alignment import GAP, UNKNOWN, Alignment, letters_of, read_alignment, write_a3m
from zoo.preprocessing.alignment_processor import AlignmentProcessor, alignment_html, load_alignment, plot_alignment
from zoo.preprocessing.auto import processor_from_dict
from zoo.preprocessing.fasta import RESIDUES
from zoo.preprocessing.modality import MODALITIES, of_file, of_item
from zoo.utils.errors import DataError, LoadError
from zoo.utils.plotting import make_figure

A3M = ">query a protein\nMKVA\nGE\n>one\nMK-AGE\n>two\nmlM-VkkA..GX\n"
STOCKHOLM = "# STOCKHOLM 1.0\n#=GF ID x\nquery MKV.A\none   M-vGA\n\nquery GE\none   G-\n//\n"


def write(folder, name, text):
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def test_a3m_drops_and_counts_insertions(tmp_path):
    for name in ("family.a3m", "family.a3m.gz"):
        found = read_alignment(write(tmp_path, name, A3M))
        assert found.names == ("query", "one", "two") and found.query == "MKVAGE"
        assert found.rows == ("MKVAGE", "MK-AGE", "M-VAGX")
        assert found.insertions == (0, 0, 4) and len(found) == 3
    write_a3m(tmp_path / "again.a3m", found)
    assert read_alignment(tmp_path / "again.a3m").rows == found.rows


QUIRKS = (
    "#5\t1\r\n; a comment\r\n>ss_pred PSIPRED\r\nCCHHH\r\n>ss_conf\r\n99887\r\n>query\ta long\tname\r\nmkvag*\r\n"
    ">one|x with words\r\nMKaa.V\r\n\r\n.A-\r\n>one|x\r\nUOBZX\r\n>dots\r\n.K..G\r\n>stop\r\nM-vV AG*\r\n\0"
)


def test_what_a3m_files_of_other_programs_have(tmp_path):
    """Comments, annotations of HH-suite, tabs in names, Windows line ends, empty lines, a query in lower case, stops,
    every letter of IUPAC, names twice, dots as gaps, and the NUL byte of MMseqs2."""
    found = read_alignment(write(tmp_path, "x.a3m", QUIRKS))
    assert found.names == ("query", "one|x", "one|x", "dots", "stop")
    assert found.rows == ("MKVAG", "MKVA-", "UOBZX", "-K--G", "M-VAG")
    assert found.insertions == (0, 2, 0, 0, 1)
    assert found.ids()[2].tolist() == [UNKNOWN] * 5


def test_columns_are_those_of_the_query(tmp_path):
    fasta = read_alignment(write(tmp_path, "x.afa", ">q\n-MK.V\n>a\nAmkLv\n>b\n--KL-\n"))
    assert fasta.rows == ("MKV", "MKV", "-K-") and fasta.insertions == (0, 2, 1)
    stockholm = read_alignment(write(tmp_path, "x.sto", STOCKHOLM))
    assert stockholm.names == ("query", "one")
    assert stockholm.rows == ("MKVAGE", "M-VAG-") and stockholm.insertions == (0, 1)
    assert read_alignment(write(tmp_path, "x.txt", A3M), format="a3m").rows[2] == "M-VAGX"


def test_residues_are_numbers_in_a_fixed_order():
    alignment = Alignment.of_rows([RESIDUES + "XBU", "-" * 20 + "x.J"])
    assert alignment.ids()[0].tolist() == [*range(20), UNKNOWN, UNKNOWN, UNKNOWN]
    assert alignment.ids()[1].tolist() == [GAP] * 20 + [UNKNOWN, GAP, UNKNOWN]
    assert letters_of(alignment.ids())[1] == "-" * 20 + "X-X"
    assert alignment.names == ("row 1", "row 2")


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.a3m", ">q\nMKVA\n>short\nMKa\n", r"sequence 2 \(short\) has 2 columns, 2 fewer than the query \(q\), .* 4"),
        ("a.afa", ">q\nMKVA\n>b\nMKVA\n>long\nMKVAG\n", r"sequence 3 \(long\) has 5 columns, 1 more than the query"),
        ("a.a3m", ">q\nMKVA\n>b\nM1VA\n", r"sequence 2 \(b\) has the unknown letter '1' in column 2: .*unknown='X'"),
        ("a.a3m", ">q\n----\n>b\nMKVA\n", r"the query \(q\) has no residues"),
        ("a.a3m", ">q\nMK\n>b\n>c\nMK\n", r"record 'b' \(line 3\) has no residues"),
        ("a.a3m", "", "a.a3m has no records"),
        ("a.a3m", ">q\nMK\n\0>p\nMK\n", "line 3: another alignment begins"),
        ("a.a3m", ">q\nMKVA\n>b\nM.a\n", r"sequence 2 \(b\) has 1 columns, 3 fewer than the query"),
        ("a.a3m", ">q\nMK\n>b\nM*\n", r"sequence 2 \(b\) has 1 columns, 1 fewer"),
        ("a.a3m", "MKVA\n", "line 1: expected a line that begins with '>'"),
        ("a.sto", "query MKV\n", "not a Stockholm file"),
        ("a.sto", "# STOCKHOLM 1.0\n//\n", "has no sequences"),
        ("a.sto", "# STOCKHOLM 1.0\nq MKV\nq MKV\n", "line 3: the name q is there twice"),
        ("a.sto", "# STOCKHOLM 1.0\nq MK V\n", "line 2: expected a name and a row"),
        ("a.sto", "# STOCKHOLM 1.0\nq MKV\nb MK\n", r"sequence 2 \(b\) has 2 columns, 1 fewer"),
    ],
)
def test_broken_files_are_named_with_their_row(tmp_path, name, text, message):
    path = write(tmp_path, name, text)
    with pytest.raises(DataError, match=message) as error:
        read_alignment(path)
    assert str(path) in str(error.value)


def test_other_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_alignment(tmp_path / "none.a3m")
    (tmp_path / "cut.a3m.gz").write_bytes(gzip.compress(A3M.encode())[:20])
    with pytest.raises(DataError, match="damaged gzip"):
        read_alignment(tmp_path / "cut.a3m.gz")
    with pytest.raises(ValueError, match="no sequences"):
        Alignment.of_rows([])
    with pytest.raises(ValueError, match="has 2 sequences and 1 names"):
        Alignment.of_rows(["MK", "M-"], ["a"])
    with pytest.raises(ValueError, match="format is 'msf', expected one of"):
        read_alignment(tmp_path / "a.a3m", format="msf")
    path = write(tmp_path, "odd.a3m", ">q\nMKVA\n>b\nM*VA\n")
    assert read_alignment(path, unknown="X").rows[1] == "MXVA"


def test_batches_of_different_sizes_are_padded(tmp_path):
    processor = AlignmentProcessor()
    first, second = Alignment.of_rows(["MKVAG", "MK-AG", "AKVAG"]), Alignment.of_rows(["MKV", "M-V"])
    assert set(processor(first)) == {"msa"} and processor(first)["msa"].shape == (1, 3, 5)
    assert set(processor([first, Alignment.of_rows(["MKVAG"])])) == {"msa", "msa_mask"}
    batch = processor([first, write(tmp_path, "b.a3m", ">a\nMKV\n>b\nM-V\n")])
    assert torch.equal(batch["msa"][0], first.ids())
    assert torch.equal(batch["msa"][1, :2, :3], second.ids()) and (batch["msa"][1, 2:] == GAP).all()
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batch["msa_mask"].sum((1, 2)).tolist() == [15, 6]


def test_rows_are_sampled_with_the_query_first():
    alignment = Alignment.of_rows([*("A" * i + "M" * (30 - i) for i in range(30))])
    ids = alignment.ids()
    for sampling in ("random", "first"):
        processor = AlignmentProcessor(max_sequences=8, sampling=sampling)
        msa = processor(alignment)["msa"][0]
        rows = [int((ids == row).all(1).nonzero()) for row in msa]
        assert rows[0] == 0 and rows == sorted(set(rows)) and len(rows) == 8
        assert (rows == list(range(8))) == (sampling == "first")
        assert torch.equal(processor(alignment)["msa"][0], msa)
    other = AlignmentProcessor(max_sequences=8).sample(ids, torch.Generator().manual_seed(5))
    assert torch.equal(other[0], ids[0]) and not torch.equal(other, msa)
    assert torch.equal(AlignmentProcessor(max_sequences=None).sample(ids), ids)


def test_processor_is_saved_and_checked():
    processor = AlignmentProcessor(max_sequences=7, sampling="first", unknown="X")
    assert processor_from_dict(processor.to_dict()) == processor
    with pytest.raises(LoadError, match="unknown key 'depth'"):
        AlignmentProcessor.from_dict(processor.to_dict() | {"depth": 3})
    with pytest.raises(LoadError, match="max_sequences=0"):
        AlignmentProcessor.from_dict(processor.to_dict() | {"max_sequences": 0})
    with pytest.raises(ValueError, match="there is no file 'MKVA': expected the path of an alignment"):
        processor("MKVA")
    with pytest.raises(ValueError, match="expected the path of an alignment"):
        processor([object()])
    with pytest.raises(ValueError, match="list of alignments is empty"):
        processor([])
    with pytest.raises(ValueError, match="vocab_size=21: expected at least 22"):
        processor.check(type("Config", (), {"vocab_size": 21}))


def test_alignment_is_a_modality(tmp_path):
    path, alignment = write(tmp_path, "x.a3m", A3M), Alignment.of_rows(["MKVA"] * 20)
    assert of_file("family.A3M").name == of_item(alignment).name == "alignment"
    assert MODALITIES["alignment"].load(path) == load_alignment(path)
    assert "MKVAGE" in alignment_html(path) and "20 sequences" in alignment_html(alignment)
    axes = make_figure(2, 2, 50).subplots()
    plot_alignment(axes, alignment)
    assert "MKVA" in axes.texts[0].get_text()
