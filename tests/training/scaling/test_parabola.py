"""Parabolas through the runs of one budget, beside the laws."""

import json
import math
from pathlib import Path

import pytest

from tests.plot_checks import check_texts
from zoo.training.scaling.fit import check_design
from zoo.training.scaling.laws import LAWS
from zoo.training.scaling.parabola import parabolas
from zoo.training.scaling.report import report_of
from zoo.training.scaling.runs import ScalingRun
from zoo.training.scaling.sweep import read_sweep

A, B, ALPHA, BETA = 8.0, 60.0, 0.3, 0.35


def run_of(n: float, budget: float, off: float = 1.0) -> ScalingRun:
    d = off * budget / (6 * n)
    return ScalingRun(f"{n:.0f}", round(n), round(d), 0.9 + A / n**ALPHA + B / d**BETA)


def best_of(budget: float) -> float:
    """Hoffmann et al., equation 4."""
    return float((ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (budget / 6) ** (BETA / (ALPHA + BETA)))


BUDGETS = (1e11, 3e11, 9e11)


def test_the_minimum_is_that_of_sizes_evenly_spaced_around_it_and_biased_elsewhere() -> None:
    for budget in BUDGETS:
        even = [run_of(best_of(budget) * 2.0**k, budget, 1 + 0.01 * (k % 2)) for k in (-2, -1, 0, 1, 2)]
        (found,) = parabolas(even)
        assert found.inside and found.runs == 5 and found.budget == pytest.approx(budget, rel=0.02)
        assert found.parameters == pytest.approx(best_of(budget), rel=0.1)
        (above,) = parabolas([run_of(best_of(budget) * 2.0**k, budget) for k in (0, 1, 2, 3, 5)])
        assert not above.inside or above.parameters > 1.1 * best_of(budget)
    falling = [ScalingRun(str(n), n, round(1e11 / 6 / n), 3 - 0.1 * math.log(n) - 0.01 * math.log(n) ** 2)
               for n in (10_000, 20_000, 40_000, 80_000)]  # fmt: skip
    (bent,) = parabolas(falling)
    assert math.isnan(bent.parameters) and not bent.inside


def test_runs_of_other_budgets_and_of_few_sizes_have_none() -> None:
    assert not parabolas([run_of(1e4 * 2**k, 1e11) for k in range(3)])
    assert not parabolas([run_of(1e4 * 2**k, 1e11 * 2**k) for k in range(5)])
    assert not parabolas([])


def test_a_report_shows_them_beside_the_laws(tmp_path: Path) -> None:
    runs = [run_of(n, budget) for budget in BUDGETS for n in (5e3, 1e4, 2e4, 4e4, 8e4)]
    report = report_of(runs, [], tmp_path, samples=2)
    report.write()
    _, head, rows = next(section for section in report.sections() if "parabola" in section[0])
    assert len(rows) == 3 and head[2] == "minimum of the parabola"
    assert head[4:] == ["best of chinchilla", "best of kaplan"]
    values = json.loads((tmp_path / "scaling.json").read_text())["parabolas"]
    for value, budget in zip(values, BUDGETS, strict=True):
        assert value["budget"] == pytest.approx(budget, rel=0.01)
        assert report.fits["chinchilla"].optimum(value["budget"]).parameters == pytest.approx(best_of(budget), rel=0.1)
    figure = report.figure()
    check_texts(figure)
    assert len(figure.axes) == 3
    labels = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert labels == ["1e+11 FLOPs", "3e+11 FLOPs", "9e+11 FLOPs"]


def test_the_sweep_of_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its runs determine both laws, and each of its budgets has a parabola."""
    monkeypatch.chdir(Path(__file__).parents[3])
    planned = read_sweep(Path("configs/sweeps/isoflop.yaml")).planned()
    for law in LAWS.values():
        check_design(law, [n for _, n, _ in planned], [d for _, _, d in planned])
    found = parabolas([ScalingRun(name, n, d, 1.0) for name, n, d in planned])
    assert [each.runs for each in found] == [5, 5, 5]
    assert [each.budget for each in found] == pytest.approx(BUDGETS, rel=0.02)
