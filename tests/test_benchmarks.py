"""The benchmarks' own code: what is measured, how values become the table of docs/figures.md, and `--smoke` of each."""

import ast
import datetime
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def measures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("measures")


def seconds(title: str, **values: Any) -> dict[str, Any]:
    machine = "A processor, 4 CPUs, Python 3.11.2, torch 2.12.1"
    return {"command": "one.py", "title": title, "machine": machine, "values": values}


def measure(*places: list[str], unit: str = "x", command: str = "one.py") -> dict[str, Any]:
    return {"text": "a measure", "command": command, "unit": unit, "target": [1.5] * len(places), "values": places}


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_page_has_the_table_of_the_kept_values(measures):
    expected = measures.table(measures.read_measures(), measures.read_results())
    assert measures.written(measures.PAGE.read_text()) == expected, "run: python benchmarks/measures.py --write"


def test_measures_name_scripts_and_have_a_target_for_each_value(measures):
    for name, one in measures.read_measures().items():
        assert (FOLDER / one["command"].split()[0]).is_file(), name
        assert len(one["target"]) == len(one["values"]) and one["unit"] in (
            "x",
            "1/",
            "s",
            "ms",
            "MB",
            "points",
            "requests",
        ), name
        assert set(one) == {"text", "command", "unit", "target", "values"}, name


def test_kept_values_are_those_of_measures(measures):
    known, machines = measures.read_measures(), measures.read_results()
    assert len(machines) >= 2 and len({machine["column"] for machine in machines}) == len(machines)
    for machine in machines:
        for name, kept in machine["values"].items():
            assert len(kept["values"]) <= len(known[name]["values"]), name
            assert isinstance(kept["date"], datetime.date), name


def test_cells_mark_what_falls_short(measures):
    ratio, time = measure(["a", "b"], ["a", "c"]), measure(["a", "b"], unit="ms")
    assert measures.cell(ratio, {"values": [1.5, 1.49]}) == "1.5x / **1.49x**"
    assert measures.cell(ratio, {"values": [1.6, None]}) == "1.6x / not measured"
    assert measures.cell(ratio, {"values": [1.6, 1.7], "target": [None, 2.0]}) == "1.6x / **1.7x** (target - / 2x)"
    assert measures.cell(time, {"values": [1.5]}) == "1.5 ms" and measures.cell(time, {"values": [1.6]}) == "**1.6 ms**"
    assert measures.cell(measure(["a", "b"], unit="1/"), {"values": [12]}) == "1/12"
    assert measures.cell(ratio, None) == "not measured"


# --- values of a run --------------------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_of_the_ratios_of_rounds(measures):
    records = [
        seconds("other", base=[9.0]),
        seconds("t", base=[2.0, 4.0, 9.0], half=[1.0, 1.0, 9.0], own=[1.0, 2.0, 3.0]),
    ]
    assert measures.value_of(records, "one.py", "x", ["t", "own"]) == 2.0
    assert measures.value_of(records, "one.py", "x", ["t", "own", "half"]) == 1.0
    with pytest.raises(KeyError, match=r"one.py recorded no value of 'gone' in 't'"):
        measures.value_of(records, "one.py", "x", ["t", "gone"])


def test_memory_and_times_are_read_as_they_are(measures):
    records = [seconds("memory", zoo=5.0, baseline=60.0)]
    assert measures.value_of(records, "one.py", "1/", ["memory", "zoo"]) == 12
    assert measures.value_of(records, "one.py", "MB", ["memory", "zoo"]) == 5


def test_a_run_adds_a_column_for_its_machine(measures, tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "RESULTS", tmp_path)
    records = [seconds("t", base=[2.0], zoo=[1.0])]
    both = {"m": measure(["t", "zoo"]), "failed": measure(["t", "zoo"], command="two.py")}
    file = measures.keep(both, records, ["two.py (exit status 1)"])
    assert file == tmp_path / "a_processor_4_cpus.yaml"
    kept = yaml.safe_load(file.read_text())
    assert kept["column"] == "A processor" and kept["versions"] == "Python 3.11.2, torch 2.12.1"
    assert kept["values"] == {"m": {"date": datetime.date.today(), "values": [2.0]}}
    text = measures.table(both, [kept])
    assert "| a measure | 2x | 1.5x | `one.py` |" in text and "| a measure | not measured |" in text


def test_a_run_keeps_what_it_does_not_measure(measures, tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "RESULTS", tmp_path)
    old = {"column": "Mine", "machine": "my computer", "values": {"old": {"date": "2020-01-01", "values": [3]}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(old))
    measures.keep({"m": measure(["t", "zoo"])}, [seconds("t", base=[2.0], zoo=[1.0])], [], "mine")
    kept = measures.read_results()[0]
    assert kept["column"] == "Mine" and set(kept["values"]) == {"old", "m"}


# --- all benchmarks ---------------------------------------------------------------------------------------------------


def test_every_benchmark_has_a_smallest_size():
    tools = {"_measure.py", "measures.py", "smoke.py", "attack.py", "mutants.py"}
    for file in FOLDER.glob("*.py"):
        if file.name not in tools:
            calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
            options = [node for node in calls if isinstance(node.func, ast.Name) and node.func.id == "options"]
            assert len(options) == 1 and len(options[0].args) == 1, f"{file.name}: options(smoke, ...) is missing"


@pytest.mark.full
def test_a_run_of_a_benchmark_keeps_its_values(measures, tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "RESULTS", tmp_path)
    one = measure(["vit_base_patch16_224, batch 1", "zoo float32"], command="inference.py --smoke")
    records, failed = measures.run({"vit": one}, "cpu")
    assert not failed and measures.keep({"vit": one}, records, failed).is_file()
    assert measures.read_results()[0]["values"]["vit"]["values"][0] > 0
