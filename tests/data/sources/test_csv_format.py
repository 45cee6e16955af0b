"""How CSV files are written: separators, quotes and headers are found by the rows."""

import time

import pytest

from zoo.data.sources.csv_format import CsvFormat, find_format, has_header, read_rows

ROWS = [["text", "label"], ["good, really; or not", "1"], ["bad", "0"], ['she said "no"', "0"]]


def written(rows: list[list[str]], sep: str, end: str = "\n") -> str:
    quoted = (sep.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)
    return end.join(quoted) + end


def cells(text: str, preferred: str = ",", sep: str = "auto") -> list[list[str]]:
    return [row for _, row in find_format(text, preferred, sep).rows(text)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("sep", [",", ";", "\t", "|"])
@pytest.mark.parametrize("preferred", [",", "\t"])
def test_the_separator_of_quoted_cells(sep: str, end: str, preferred: str) -> None:
    assert cells(written(ROWS, sep, end), preferred) == ROWS


@pytest.mark.parametrize(("text", "sep"), [
    ("text;label\nwell, good, fine;1\nbad;0\n", ";"),  # commas in the texts, not in all rows
    ("text;label\nwell, good;1\nbad, sad;0\n", ";"),  # in all rows but the header
    ("1,5;2,5\n3,0;4,5\n", ";"),  # decimal commas, which the comma would cut through
    ("a,b\n1;2,3\n4;5,6\n", ","),
    ("a;b,c;d\nx;y,z;w\n", ","),  # both fit: the suffix decides
    ("text|label\na|1\n\nb|0\n", "|"),
    ("Datum;Wert\n2024-01-01;1,5\n2024-01-02;2,5\n", ";"),
    ("id,text\n1,a;b\n2,c\n", ","),
    ("a,b\n1,2\n1,2,3\n", ","),  # ragged: an error that names the line
    ("a;b;c\n1;2;3\n1;2\n1;2;3\n", ";"),
])  # fmt: skip
def test_the_separator_of_plain_cells(text: str, sep: str) -> None:
    assert find_format(text, ",").sep == sep


@pytest.mark.parametrize("text", ["text\ngood\nbad\n", "text\nwell, good\nbad\nso, so, la\n", "text\n\nx | y\nz\n"])
def test_a_single_column_stays_one(text: str) -> None:
    assert find_format(text, ",").one_column
    assert cells(text) == [[line] for line in text.split("\n") if line]


def test_lines_above_the_header_are_not_a_single_column() -> None:
    assert find_format("My export\ntext,label\na,1\nb,0\n", ",").sep == ","


@pytest.mark.parametrize(("text", "expected"), [
    ("sep=;\ntext;label\na,b;1\n", [["text", "label"], ["a,b", "1"]]),  # the first line of Excel
    ('"sep=|"\r\ntext|label\r\na|1\r\n', [["text", "label"], ["a", "1"]]),
    ("'text','label'\n'a, b','1'\n'it''s','0'\n", [["text", "label"], ["a, b", "1"], ["it's", "0"]]),
    ('text,label\n"a \\"b\\", c",1\nd,0\n', [["text", "label"], ['a "b", c', "1"], ["d", "0"]]),
    ("text,label\nit's,1\n'tis,0\n", [["text", "label"], ["it's", "1"], ["'tis", "0"]]),
    ("a;b\n  \n1;2\n", [["a", "b"], ["1", "2"]]),
])  # fmt: skip
def test_quotes_and_first_lines(text: str, expected: list[list[str]]) -> None:
    assert cells(text) == expected


@pytest.mark.parametrize("texts", [
    ['"I am here.', "Where are", 'you too."', "two"],  # read as quotes, three lines would be one cell
    ['"Look here" he says', "two"],
    ['"', "a 5\" screen", "two"],
    ['"Look", he says, "there"', '"No", she says, "here"'],  # in all lines, the first included, with the same commas
])  # fmt: skip
def test_quotes_are_letters_in_lines_of_cells_between_tabs(texts: list[str]) -> None:
    rows = [[text, f"{text} x"] for text in texts]
    for table in (rows, [["source", "target"], *rows]):
        text = "".join("\t".join(row) + "\n" for row in table)
        fmt, found = read_rows(text, find_format(text, "\t"))
        assert [cells for _, cells in found] == table
        assert fmt == CsvFormat("\t", quote=None)


@pytest.mark.parametrize(
    "text", ['a\tb\n"x\ny"\tz\n', 'a\tb\n"x\ty"\tz\n', 'a\tb\n"x ""y"""\tz\n', '"a"\n"b\tc"\n"d"\n']
)
def test_quoted_cells_between_tabs_stay_quoted(text: str) -> None:
    assert read_rows(text, CsvFormat("\t"))[0] == CsvFormat("\t")


def test_lines_are_counted_from_the_first_of_the_file() -> None:
    text = "sep=;\na;b\n\n1;2\n"
    assert list(find_format(text, ",").rows(text)) == [(2, ["a", "b"]), (4, ["1", "2"])]
    assert find_format("a;b\n1;2\n", ",", sep=",") == CsvFormat(",")


@pytest.mark.parametrize(("first", "below"), [
    (["text", "label"], [["a", "b"], ["c", "b"]]),
    (["phrase", "grade"], [["good", "1"], ["bad", "0"]]),  # text over numbers
    (["phrase", "kind"], [["good film", "pos"], ["bad", "neg"]]),  # nothing speaks against it
    (["country", "2018", "2019", "2020"], [["FR", "1", "2", "3"], ["DE", "4", "5", "6"]]),
    (["0", "1", "2", "3"], [["0.5", "1", "2", "3"], ["0.1", "4", "5", "6"]]),
    (["", "text"], [["0", "a"], ["1", "b"]]),  # as pandas writes its index
    (["What did you like about the course?", "Rating"], [["the people and the food", "4"], ["all of it, really", "5"]]),
    (["a", "b"], []),
])  # fmt: skip
def test_first_rows_that_are_headers(first: list[str], below: list[list[str]]) -> None:
    assert has_header([first, *below])


@pytest.mark.parametrize("rows", [
    [["good film", "1"], ["bad film", "0"]],
    [["good film", "pos"], ["bad film", "neg"], ["fine", "pos"]],  # a label that is repeated
    [["a/0.wav", "dog"], ["b/1.wav", "cat"]],
    [["I liked this film very much", "x"], ["The worst that I have seen", "y"], ["Not my kind of thing", "z"]],
    [["1.5", "2"], ["3.5", "4"]],
    [["1,5"], ["2,5"]],
])  # fmt: skip
def test_first_rows_that_are_data(rows: list[list[str]]) -> None:
    assert not has_header(rows)


def test_large_files_take_a_sample() -> None:
    wide = ";".join(f"c{i}" for i in range(5000)) + "\n" + ";".join("1" * 5000) + "\n"
    assert find_format(wide, ",").sep == ";"
    long = "text;label\n" + "".join(f"row, {i};{i % 2}\n" for i in range(200_000))
    started = time.process_time()
    assert find_format(long, ",").sep == ";"
    assert time.process_time() - started < 1.0
    assert find_format("text,label\n" + "y" * 3_000_00 + ",1\n", ",").sep == ","
