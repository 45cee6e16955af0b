"""Tables: cells and JSON values exactly as they are in the file, and the line of each row."""

import gzip
from pathlib import Path

import pytest

from zoo.data.sources.tables import Table, read_table
from zoo.utils.errors import DataError


def read(file: Path, text: str) -> Table:
    file.write_text(text, encoding="utf-8", newline="")
    return read_table(file)


def test_cells_are_texts_as_written(tmp_path: Path) -> None:
    cells = ["01", "true", "1.0", "NA", "null", "2024-05-01", "1e3", " x", 'x"y', "", "y" * 3_000_000]
    table = read(tmp_path / "a.csv", "id,cell\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells)))
    assert table.columns == {"id": [str(i) for i in range(len(cells))], "cell": cells}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_rows(tmp_path: Path, end: str) -> None:
    table = read(tmp_path / "a.tsv", end.join(["a\tb", "", '"one', 'two"\t1', "x\t2", "", "y\t3"]))
    assert table.columns == {"a": [f"one{end}two", "x", "y"], "b": ["1", "2", "3"]}
    assert table.lines == [3, 5, 7] and table.place(1) == f"{tmp_path / 'a.tsv'}, line 5"


@pytest.mark.parametrize(("row", "line"), [('1,"x', 3), ('1,"x"y', 3), ("1", 3), ("1,2,3", 3), ('"1\n2,"x"\n', 3)])
def test_rows_that_cannot_be_read(tmp_path: Path, row: str, line: int) -> None:
    with pytest.raises(DataError, match=rf"a\.csv, line {line}: "):
        read(tmp_path / "a.csv", f"a,b\n1,2\n{row}")


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 1: two columns are named 'a'"):
        read(tmp_path / "a.csv", "a, a\n1,2\n")


def test_json_values_keep_their_types(tmp_path: Path) -> None:
    text = (
        '{"a": 1, "b": "2024-05-01", "c": {"x": 1}}\n\n'
        '{"a": 0.5, "b": "2024-05-01 10:00:00", "c": {"y": 2}}\n'
        '{"a": 12345678901234567890123, "b": "x"}\n'
        '{"a": true}\n'
    )
    table = read(tmp_path / "a.jsonl", text)
    assert [repr(value) for value in table.columns["a"]] == ["1", "0.5", "12345678901234567890123", "True"]
    assert table.columns["b"] == ["2024-05-01", "2024-05-01 10:00:00", "x", None]
    assert table.columns["c"] == [{"x": 1}, {"y": 2}, None, None]
    assert table.lines == [1, 3, 4, 5]


def test_two_objects_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json is one object with the keys 'data', expected a list of objects"):
        read(tmp_path / "a.json", '{"data": [{"text": "a"}]}')
    with pytest.raises(DataError, match=r"a\.json is a value, expected a list of objects"):
        read(tmp_path / "a.json", "3")
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: invalid JSON"):
        read(tmp_path / "a.jsonl", '{"a": 1}\n{"a": 1} {"a": 2}\n')


# --- as they come -----------------------------------------------------------------------------------------------------


def test_a_file_of_another_country_is_read_and_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "reviews.csv"
    file.write_bytes("text;label\r\nle café, très bon;1\r\nmauvais;0\r\n".encode("cp1252"))
    assert read_table(file).columns == {"text": ["le café, très bon", "mauvais"], "label": ["1", "0"]}
    said = " ".join(capsys.readouterr().err.split())
    assert "reviews.csv: read as cp1252, separated by ';', with a header. The encoding is a guess (line 2: " in said
    assert "'le café, très bon;1'" in said and "name another, e.g. encoding=cp1252" in said and "set sep=" in said
    file.write_text("text\tlabel\ngood\t1\nbad\t0\n", encoding="utf-16")
    assert read_table(file).columns["text"] == ["good", "bad"]
    assert "read as utf-16, separated by tabs, with a header" in " ".join(capsys.readouterr().err.split())


def test_what_the_suffix_stands_for_is_not_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(tmp_path / "a.csv", "\ufefftext,label\ncafé,1\nb,0\n")
    read(tmp_path / "a.tsv", "text\tlabel\ncafé\t1\nb\t0\n")
    read(tmp_path / "b.csv", "text\ngood\nbad\n")
    (tmp_path / "c.csv").write_bytes("x;y\ncafé;1\nb;0\n".encode("cp1252"))
    assert capsys.readouterr().err == ""
    read_table(tmp_path / "c.csv", header=True, sep="semicolon", encoding="cp1252")
    said = capsys.readouterr().err
    assert "read as cp1252" in said and "guess" not in said and "set sep=" not in said


def test_a_table_without_a_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "good film,1\nbad film,0\n"
    table = read(tmp_path / "a.csv", rows)
    assert table.columns == {"column_1": ["good film", "bad film"], "column_2": ["1", "0"]} and table.lines == [1, 2]
    said = " ".join(capsys.readouterr().err.split())
    assert "without a header. The columns are named column_1, column_2; if the first row names them, set" in said
    assert list(read_table(tmp_path / "a.csv", header=True).columns) == ["good film", "1"]
    assert list(read_table(tmp_path / "a.csv", header=False).columns) == ["column_1", "column_2"]
    assert capsys.readouterr().err == ""
    with pytest.raises(DataError, match="line 3: 3 cells, but the first row has 2"):
        read(tmp_path / "a.csv", "a,1\nb,0\nb,c,0\n")


def test_separators_at_the_end_and_columns_without_a_name(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", "a;b;\n1;2;\n3;4;\n").columns == {"a": ["1", "3"], "b": ["2", "4"]}
    assert read(tmp_path / "a.csv", "a,b\n1,2,\n3,4,,\n").columns == {"a": ["1", "3"], "b": ["2", "4"]}
    assert read(tmp_path / "a.csv", "a,b,\n1,2\n3,4\n").columns == {"a": ["1", "3"], "b": ["2", "4"]}
    assert read(tmp_path / "a.csv", ",text\n0,x\n1,\n").columns == {"column_1": ["0", "1"], "text": ["x", ""]}
    with pytest.raises(DataError, match="line 2: 3 cells"):
        read(tmp_path / "a.csv", "a,b,\n1,2,3,4\n".replace(",4", "").replace("a,b,", "a,b"))


def test_thousands_of_columns(tmp_path: Path) -> None:
    table = read(tmp_path / "a.csv", ",".join(f"c{i}" for i in range(6000)) + "\n" + ",".join(["1"] * 6000) + "\n")
    assert len(table.columns) == 6000


def test_compressed_and_text_tables(tmp_path: Path) -> None:
    raw = b"text,label\na,1\nb,0\n"
    for name in ("a.csv.gz", "b.CSV.GZ", "renamed.csv"):
        (tmp_path / name).write_bytes(gzip.compress(raw))
        assert read_table(tmp_path / name).columns == {"text": ["a", "b"], "label": ["1", "0"]}
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(raw)[:-9])
    with pytest.raises(DataError, match=r"a\.csv\.gz is a damaged gzip file"):
        read_table(tmp_path / "a.csv.gz")
    assert read(tmp_path / "a.txt", "text|label\na|1\n").columns == {"text": ["a"], "label": ["1"]}
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n'))
    assert read_table(tmp_path / "a.jsonl.gz").columns == {"text": ["a"]}


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04rest")
    (tmp_path / "b.csv").write_bytes(b"PK\x03\x04rest")
    (tmp_path / "c.csv").write_bytes(b"PAR1rest")
    (tmp_path / "d.csv").write_bytes(b"a,b\n1,\0\n")
    for name, says in (
        ("folder.csv", r"folder\.csv is a folder, expected a table"),
        ("a.xlsx", r"a\.xlsx is a spreadsheet, expected a table: save it as CSV \(UTF-8\)"),
        ("b.csv", r"b\.csv is a zip file or a spreadsheet \(\.xlsx\) by its content"),
        ("c.csv", r"c\.csv is a parquet file by its content"),
        ("d.csv", r"d\.csv, line 2: it has a NUL character"),
        ("e.csv", "does not exist"),
    ):
        with pytest.raises(DataError, match=says):
            read_table(tmp_path / name)
    read(tmp_path / "a.jsonl", '{"a": 1}\n')
    with pytest.raises(DataError, match=r"header= and sep= are for CSV files"):
        read_table(tmp_path / "a.jsonl", sep=";")
