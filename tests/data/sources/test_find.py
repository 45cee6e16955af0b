"""A dataset is found by its name: a card, a folder, a table, shards or the Hub; and what is said where it is not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from zoo.data.base_config import BaseDataSettings
from zoo.data.config import TextDataSettings
from zoo.data.graph.molecules import load_molecules
from zoo.data.molecule_config import MoleculeDataSettings
from zoo.data.sources import find
from zoo.data.sources.auto import resolve_auto
from zoo.data.sources.columns import find_column, find_columns, with_decimal_points, with_values
from zoo.data.sources.dataset_cards import card_files, load_card
from zoo.data.sources.find import find_tables, split_tables
from zoo.data.sources.hub import HubError
from zoo.data.sources.tables import Table, read_table
from zoo.data.text.summaries import load_summaries
from zoo.data.text_config import SummarySettings
from zoo.utils.errors import DataError

TASK = "text classification"


def write(file: Path, rows: int = 2, header: str = "text,label") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(header + "\n" + "".join(f"{file.stem} {i},{i}\n" for i in range(rows)))
    return file


def test_tables_of_a_folder_by_split(tmp_path: Path) -> None:
    for name in ("train.csv", "dev.jsonl", "test/metadata.csv"):
        write(tmp_path / name)
    (tmp_path / "dev.jsonl").write_text('{"text": "dev 0", "label": 1}\n')
    source, _ = find_tables(TextDataSettings(name=str(tmp_path)), TASK)
    assert (source.name, source.where, source.card) == (tmp_path.name, str(tmp_path), None)
    assert {split: table.columns["text"][0] for split, table in source.tables.items()} == {
        "train": "train 0", "validation": "dev 0", "test": "metadata 0"}  # fmt: skip
    write(tmp_path / "train.tsv")
    with pytest.raises(DataError, match=r"has train\.csv and train\.tsv: expected one table for train"):
        split_tables(tmp_path)
    (tmp_path / "train.csv").unlink(), (tmp_path / "train.tsv").unlink()
    with pytest.raises(DataError, match="has a table for validation but none for train"):
        split_tables(tmp_path)
    write(tmp_path / "captions.csv")
    assert list(split_tables(tmp_path, alone=("captions",))) == ["train", "validation", "test"]
    assert split_tables(tmp_path / "empty") == {}


def test_a_table_and_the_tables_of_options(tmp_path: Path) -> None:
    file, test = write(tmp_path / "rows.csv"), write(tmp_path / "more.csv")
    source, _ = find_tables(TextDataSettings(name=str(file), test=str(test)), TASK)
    assert list(source.tables) == ["train", "test"] and source.tables["test"].columns["text"][0] == "more 0"
    assert source.name == "rows.csv" and source.classes is None


def test_datasets_of_the_hub_with_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def hub(name: str, config: str | None = None) -> dict[str, Table]:
        calls.append((name, config))
        if name == "sst":
            raise HubError("sst is not there")
        return {"train": Table({"text": ["a"]}, name)}

    monkeypatch.setattr(find, "hub_tables", hub)
    for name in ("org/name", "org/name:part", "hf-hub:name", "beans"):
        source, _ = find_tables(BaseDataSettings(name=name), TASK)
        assert source.where == f"hub {name.removeprefix('hf-hub:')}"
    assert calls == [("org/name", None), ("org/name", "part"), ("name", None), ("beans", None)]
    with pytest.raises(DataError, match=r"data='sst': expected a folder or table that exists.*did you mean 'sst2'.*"
                                        r"Hub: sst is not there"):  # fmt: skip
        find_tables(BaseDataSettings(name="sst"), TASK)


def test_a_card_names_files_and_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOO_DATA_DIR", raising=False)
    assert card_files(load_card("sst2")) == {}  # the Hub has it
    with pytest.raises(DataError, match=r"data=fsdd: neither data_dir= nor ZOO_DATA_DIR is set\. Set ZOO_DATA_DIR"):
        card_files(load_card("fsdd"))
    with pytest.raises(DataError, match=r"data_dir=.*train\.parquet does not exist.*or use data=synthetic"):
        card_files(load_card("sst2"), str(tmp_path))
    assert resolve_auto("synthetic") == "synthetic" and resolve_auto("cifar10", "anywhere") == "cifar10"
    files = {split: write(tmp_path / f"{split}.csv", header="sentence,label") for split in load_card("sst2").files}
    monkeypatch.setattr(find, "card_files", lambda card, folder: files)
    source, s = find_tables(TextDataSettings(name="sst2"), TASK)
    assert (s.text, s.label, source.classes) == ("sentence", "label", ["negative", "positive"])
    assert find_tables(TextDataSettings(name="sst2", text="label"), TASK)[1].text == "label"  # the user's choice


def test_columns_by_name_or_by_common_names(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "rows.csv", header="review,stars"))
    assert find_column(table, "", "text", ("text", "review")) == "review"
    assert find_columns(table, "review, stars", "text", ()) == ["review", "stars"]
    with pytest.raises(DataError, match=r"text=reviews: .*rows\.csv has no column 'reviews'.*did you mean"):
        find_column(table, "reviews", "text", ())
    with pytest.raises(DataError, match=r"name the text column, e\.g\. text=review \(or two.*text=review,stars\)"):
        find_column(table, "", "text", ("text",))
    with pytest.raises(DataError, match=r"name the images column, e\.g\. images=review$"):
        find_column(table, "", "images", ("image",))


def test_the_column_that_looks_right_is_suggested(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("nr,opinion,grade,shot\n" + "".join(f"{i},a long opinion {i},{i % 2},{i}.png\n" for i in range(9)))
    table = read_table(file)
    for role, column in (("text", "opinion"), ("label", "grade"), ("image", "shot"), ("captions", "opinion")):
        with pytest.raises(DataError, match=rf"name the {role} column, e\.g\. {role}={column}"):
            find_column(table, "", role, ())
    with pytest.raises(DataError, match=r"has no column 'grad' for the label; did you mean 'grade'\? \(it has nr, "):
        with_values(table, "grad", "raise", "label")
    file.write_text("opinion\nfine\n")
    with pytest.raises(DataError, match="has a single column, opinion: expected one of labels beside it"):
        find_column(read_table(file), "", "label", ())
    wide = Table({f"c{i}": ["x"] for i in range(999)}, "wide")
    with pytest.raises(DataError, match=r"c29 and 969 more"):
        find_column(wide, "label", "label", ())
    file.write_text("A first row of data,x\nc,y\n")
    with pytest.raises(DataError, match=r"If its first row is data, set header=false$"):
        find_column(read_table(file), "", "label", ())


@pytest.mark.parametrize(("values", "expected"), [
    (["3,5", "4", "-0,25"], ["3.5", "4", "-0.25"]),
    (["3.5", "4"], None), (["a,b", "3,5"], None), (["1,2,3", "1,2"], None), ([3.5, None], None),
])  # fmt: skip
def test_decimal_commas_of_labels(values: list, expected: list | None, capsys: pytest.CaptureFixture[str]) -> None:
    tables = {"train": Table({"y": values}, "rows"), "test": Table({"x": ["1,5"]}, "rows")}
    found = with_decimal_points(tables, "y")
    assert found["train"].columns["y"] == (expected or values) and found["test"] is tables["test"]
    assert ("decimal points" in capsys.readouterr().err) == (expected is not None)


@pytest.mark.parametrize(("values", "row"), [(["3,5", "3.5"], 1), (["1.234,5", "2,5"], 0), (["1,234", "12,345"], 0)])
def test_numbers_that_can_be_read_in_two_ways(values: list[str], row: int) -> None:
    with pytest.raises(DataError, match=rf"rows, row {row}: the number '{values[row]}' in 'y' can be read in two ways"):
        with_decimal_points({"train": Table({"y": values}, "rows")}, "y")


def test_rows_without_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table({"text": ["a", " ", None, "d"]}, "rows")
    with pytest.raises(DataError, match=r"rows, row 1: no transcript in 'text' \(on_error=skip skips"):
        with_values(table, "text", "raise", "transcript")
    assert with_values(table, "text", "skip", "transcript") == [0, 3]
    assert "skipped 2 rows: rows, row 1: no transcript in 'text'; rows, row 2" in capsys.readouterr().err
    with pytest.raises(DataError, match="no row has a transcript"):
        with_values(Table({"text": [""]}, "rows"), "text", "skip", "transcript")


@pytest.mark.parametrize("load", [
    lambda folder: load_summaries(SummarySettings(name=str(folder))),
    lambda folder: load_molecules(MoleculeDataSettings(name=str(folder))),
])  # fmt: skip
def test_a_folder_without_a_train_table(tmp_path: Path, load: Callable[[Path], object]) -> None:
    (tmp_path / "notes.csv").write_text("text,summary\na b,a\n")
    with pytest.raises(DataError, match=r"has no train table: expected train\.csv .*data=.*NAME\.csv"):
        load(tmp_path)
