"""The shared timing of the benchmarks: interleaving, ratios within rounds, options."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _measure

    return _measure


def test_candidates_take_turns_and_warm_up(measure: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[str] = []
    table = measure.paired(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=2, title="t", items=5
    )
    assert calls == ["a", "b"] * 5 and len(table.seconds["a"]) == 3
    said = capsys.readouterr().out
    assert "| a |" in said and "1.00x" in said and "items/s" in said and "GF/s" in said and "torch" in said


def test_the_ratio_is_the_median_of_the_rounds_ratios(measure: ModuleType) -> None:
    table = measure.Table("", "cpu", {"base": [1.0, 10.0, 4.0], "fast": [0.5, 2.0, 4.0]})
    assert table.ratio("fast") == 2.0 and table.ratio("base") == 1.0
    assert table.median("base") == 4.0 and table.spread("base") == pytest.approx(9 / 4)


def test_it_restores_threads_and_refuses_nothing_to_measure(measure: ModuleType) -> None:
    import torch

    before = torch.get_num_threads()
    seen: list[int] = []
    measure.paired({"a": lambda: seen.append(torch.get_num_threads())}, rounds=1, warmup=0)
    assert seen == [1] and torch.get_num_threads() == before
    with pytest.raises(ValueError, match="at least one"):
        measure.paired({})


def test_options_have_the_type_of_their_default(measure: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "rounds=3", "device=cuda"])
    chosen = measure.options(rounds=7, device="cpu", depth=12)
    assert (chosen.rounds, chosen.device, chosen.depth) == (3, "cuda", 12)
    for wrong in ("round=3", "rounds", "rounds=many"):
        monkeypatch.setattr(sys, "argv", ["x", wrong])
        with pytest.raises(SystemExit):
            measure.options(rounds=7)
