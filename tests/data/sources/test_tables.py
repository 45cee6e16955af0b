"""Tables: cells and JSON values exactly as they are in the file, and the line of each row."""

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
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: invalid JSON"):
        read(tmp_path / "a.jsonl", '{"a": 1}\n{"a": 1} {"a": 2}\n')
