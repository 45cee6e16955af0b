"""Texts with summaries and facts from tables, folders and the synthetic dialogues."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from zoo.data import SummarySettings, load_summaries
from zoo.data.splits import Splits
from zoo.data.synthetic import clinic
from zoo.data.text.facts import read_facts
from zoo.data.text.parallel import ParallelTexts
from zoo.utils.errors import DataError

TEXTS = [f"a long text number {i}" for i in range(20)]
NOTES = [f"text {i}" for i in range(20)]
FACTS: list[Any] = [[["aspirin", f"{i} mg"]] if i % 2 else [] for i in range(20)]


def load(name: object, **options: Any) -> Splits[ParallelTexts]:
    return load_summaries(SummarySettings(name=str(name), **options))


def rows(sets: Splits[ParallelTexts]) -> list[tuple[str, str, Any]]:
    return sorted(row for part in sets.parts for row in zip(part.sources, part.targets, part.facts or [None] * 99))


def write(file: Path, **columns: list[Any]) -> Path:
    lines = [json.dumps(dict(zip(columns, row))) for row in zip(*columns.values())]
    file.write_text("\n".join(lines))
    return file


def test_the_layouts_are_read_alike(tmp_path: Path) -> None:
    expected = sorted(zip(TEXTS, NOTES, [[tuple(fact) for fact in row] for row in FACTS]))
    lists = write(tmp_path / "lists.jsonl", article=TEXTS, summary=NOTES, facts=FACTS, title=NOTES)
    assert rows(load(lists)) == expected
    named = [[{"name": fact[0], "dose": fact[1], "why": None} for fact in row] for row in FACTS]
    parquet.write_table(pa.table({"a": TEXTS, "b": NOTES, "c": named}), tmp_path / "named.parquet")
    assert rows(load(tmp_path / "named.parquet", facts="c")) == expected
    cells = ["; ".join(" | ".join(fact) for fact in row) for row in FACTS]
    (tmp_path / "a.tsv").write_text("facts\tnote\ttext\n" + "".join(map("{}\t{}\t{}\n".format, cells, NOTES, TEXTS)))
    assert rows(load(tmp_path / "a.tsv")) == expected
    as_json = write(tmp_path / "json.jsonl", dialogue=TEXTS, note=NOTES, facts=list(map(json.dumps, FACTS)))
    sets = load(as_json)
    assert rows(sets) == expected and len(sets.test) == 2
    assert sets.train.facts is not None and len(sets.train.facts) == len(sets.train)


def test_data_without_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = load(write(tmp_path / "a.jsonl", one=TEXTS, two=NOTES))
    assert sets.train.facts is None and rows(sets) == sorted(zip(TEXTS, NOTES, [None] * 20))
    assert "source texts: column 'one', target texts: column 'two'" in "".join(capsys.readouterr())
    assert load(write(tmp_path / "b.jsonl", one=TEXTS, two=NOTES), source_text="two").train.sources[0] in NOTES


@pytest.mark.parametrize(("cell", "facts"), [
    (None, []), ("", []), (" ", []), ([], []), ("[]", []), ("a", [("a",)]), ("a; b;", [("a",), ("b",)]),
    (["a", ["b", 5, None, 2.5]], [("a",), ("b", "5", "2.5")]), ('["a", ["b", "c"]]', [("a",), ("b", "c")]),
    (" a | 1 mg ;b|2 mg", [("a", "1 mg"), ("b", "2 mg")]),
    ([{"x": "a", "y": ""}], [("a",)]), ("二甲双胍", [("二甲双胍",)]),
])  # fmt: skip
def test_cells_of_facts(cell: Any, facts: Any) -> None:
    assert read_facts(cell) == facts


@pytest.mark.parametrize(("cell", "says"), [
    (5, "the facts are 5"), ({"a": "b"}, "expected a list of facts"), ("[1", "invalid JSON"),
    ('{"a": 1}', "expected a"),
    ([5], "a fact is 5"), ([[["a"]]], r"a fact is \[\['a'\]\]"), ([[]], "part"), ([["a", "--"]], "the part '--'"),
    (["..."], "the part '...'"), ([[None]], "part"),
])  # fmt: skip
def test_broken_facts(cell: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        read_facts(cell)
    file = write(tmp_path / "a.jsonl", text=TEXTS, summary=NOTES, facts=[*[["a"]] * 4, cell, *[["a"]] * 15])
    with pytest.raises(DataError, match=f"line 5: .*{says}"):
        load(file)
    assert sum(map(len, load(file, on_error="skip").parts)) == 19


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", text=TEXTS, summary=NOTES, facts=FACTS)
    with pytest.raises(DataError, match="has no column 'fact'; did you mean 'facts'"):
        load(file, facts="fact")
    with pytest.raises(DataError, match="has no column 'facts'"):
        load(file, test=str(write(tmp_path / "b.jsonl", text=TEXTS, summary=NOTES)))
    with pytest.raises(DataError, match=r"name the target_text column, e\.g\. target_text=other"):
        load(write(tmp_path / "c.jsonl", text=TEXTS, other=NOTES, third=NOTES))  # not text, the longest, but the source
    with pytest.raises(DataError, match=r"name the source_text column, e\.g\. source_text=other"):
        load(tmp_path / "c.jsonl", target_text="text")
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "missing.csv")


def test_the_synthetic_dialogues() -> None:
    sets = load("synthetic", max_test_samples=50)
    assert not sets.real and (len(sets.train), len(sets.test)) == (clinic.TRAIN, 50)
    assert sets.test.facts is not None and all(sets.test.facts) and len(sets.test.facts) == 50
    for target, facts in zip(sets.test.targets, sets.test.facts):
        assert all(" ".join(fact) in target for fact in facts)
