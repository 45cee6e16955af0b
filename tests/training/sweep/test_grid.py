"""`zoo compare` with two settings: a table of one over the other, with a recipe that takes no time."""

import json
from pathlib import Path

import pytest

from tests.plot_checks import check_texts
from zoo.cli.main import main as cli
from zoo.training.sweep.compare import Plan, compare, read_plan
from zoo.training.sweep.grid import Grid


def write_run(plan: Plan, value: str, seed: int, minutes: float | None) -> str:
    """In place of a process that trains: the files of a run folder; returns the message of a failure."""
    folder, words = plan.folder(value, seed), dict(word.split("=") for word in plan.shared)
    with open("calls.txt", "a") as calls:
        calls.write(f"{value} {words['length']} {seed} {words['lr']}\n")
    if words["length"] == "256" and value == "fails":
        return "error: out of memory"
    folder.mkdir(parents=True)
    gain = {"softmax": 0.5, "linear": 0.25, "fails": 0.0}[value] + 0.01 * seed - int(words["length"]) / 1000
    rows = "".join(f"{step},{step / 100 + gain},{step}\n" for step in (10, 20))
    (folder / "metrics.csv").write_text(f"step,val_accuracy,seconds\n{rows}")
    (folder / "metrics.json").write_text(json.dumps({"finished": True, "seconds": 20}))
    return ""


WORDS = ["kind=softmax,linear", "length=64,128", "seeds=2", "lr=0.1"]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quick.py").write_text("")
    monkeypatch.setattr("zoo.training.sweep.compare._run", write_run)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_value_is_run_at_every_value_of_the_other(recipe: Path) -> None:
    grid = compare("quick", WORDS)
    assert isinstance(grid, Grid) and grid.ok and grid.folder == Path("runs/compare-quick-kind-length")
    ran = sorted((recipe / "calls.txt").read_text().splitlines())
    assert ran == sorted(f"{k} {n} {s} 0.1" for k in ("softmax", "linear") for n in (64, 128) for s in (0, 1))
    assert grid.cell("softmax", "64") == pytest.approx((0.641, 0.00707), abs=1e-4)
    assert grid.cell("linear", "128") == pytest.approx((0.327, 0.00707), abs=1e-4)
    assert "| softmax | 0.6410 ± 0.0071 | 0.5770 ± 0.0071 |" in str(grid) and "length=128" in str(grid)
    values = json.loads((grid.folder / "grid.json").read_text())
    assert values["metric"] == "val_accuracy" and values["rows"][1]["128"][0] == pytest.approx(0.327)
    assert (grid.folder / "length-64" / "comparison.md").is_file() and grid.plot_file.stat().st_size > 5000
    compare("quick", WORDS)  # resumes: nothing is left to do
    assert len((recipe / "calls.txt").read_text().splitlines()) == 8


def test_a_failed_run_is_named_and_the_rest_is_shown(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["kind=softmax,fails", "length=64,256", "seeds=1", "lr=0.1"]
    assert cli(["compare", "quick", *words]) == 1
    output = " ".join(capsys.readouterr().out.split())
    assert "failed: length=256, fails, seed 0: error: out of memory" in output and "0.6360" in output
    grid = compare("quick", words)
    assert grid.rows()[1] == {"kind": "fails", "64": pytest.approx((0.136, 0.0)), "256": None}
    assert "| fails | 0.1360 | - |" in str(grid)


def test_the_texts_of_the_plot_do_not_overlap(recipe: Path) -> None:
    check_texts(compare("quick", WORDS).figure())


def test_a_plan_of_two_settings(recipe: Path) -> None:
    plan = read_plan("quick", ["model.attention=a,b", "data.length=8,16", "seeds=1"])
    assert (plan.key, plan.column_key, plan.columns) == ("model.attention", "data.length", ["8", "16"])
    at = plan.at_columns()
    assert at["16"].shared == ["data.length=16"] and at["16"].out == plan.out / "length-16" and not at["16"].columns
