"""Sweeps over size and tokens: their description, and their runs by the engine of `zoo compare`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from zoo.training.parse import SettingsError
from zoo.training.scaling.runs import ScalingError
from zoo.training.scaling.sweep import Sweep, read_sweep, size_of
from zoo.training.sweep import compare

ROOT = Path(__file__).parents[3]
Reader = Callable[..., Sweep]
SIZES = {"b": {"depth": 2, "width": 32, "mlp_dim": 64}, "a": {"depth": 1, "width": 16, "mlp_dim": 32}}
SWEEP: dict[str, Any] = {"recipe": "scaling_laws", "sizes": SIZES, "tokens": [4096, 2048],
                         "options": {"data": "synthetic", "betas": [0.9, 0.95]}}  # fmt: skip


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """read(**changes) reads the sweep with some of its keys changed; None removes one."""
    monkeypatch.chdir(ROOT)

    def read_changed(**changes: object) -> Sweep:
        content = {key: value for key, value in (SWEEP | changes).items() if value is not None}
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return read_sweep(tmp_path / "s.yaml", tmp_path / "out")

    return read_changed


def test_sizes_and_steps(read: Reader) -> None:
    sweep = read()
    a, b = sweep.sizes  # the smaller one first
    assert (a.name, a.parameters, b.name) == ("a", 4 * 16 * 16 + 3 * 16 * 32 + 3 * 16, "b") and sweep.held_out == ["b"]
    assert a.tokens_per_step == 16 * 64 and a.plan.values == ["2", "4"] and a.plan.seeds == [0]
    assert a.plan.shared == ["data=synthetic", "betas=[0.9, 0.95]", "depth=1", "width=16", "mlp_dim=32"]
    per_parameter = read(tokens=None, tokens_per_parameter=[20], seeds=[3, 5], held_out=[])
    assert [size.plan.values for size in per_parameter.sizes] == [["51"], ["403"]]
    assert per_parameter.held_out == [] and per_parameter.sizes[0].plan.seeds == [3, 5]


def test_equal_budgets_have_fewer_tokens_for_larger_sizes(read: Reader) -> None:
    for size in read(tokens=None, budgets=[1e9, 4e9]).sizes:
        for steps, budget in zip(size.plan.values, (1e9, 4e9), strict=True):
            flops = 6 * size.parameters * int(steps) * size.tokens_per_step
            assert flops == pytest.approx(budget, rel=0.1)


def test_a_size_with_tokens_of_its_own(read: Reader) -> None:
    sweep = read(sizes=SIZES | {"c": {"depth": 2, "width": 48, "heads": 2, "tokens": 8192}}, held_out="a")
    assert [size.plan.values for size in sweep.sizes] == [["2", "4"], ["2", "4"], ["8"]] and sweep.held_out == ["a"]
    assert "tokens=8192" not in sweep.sizes[2].plan.shared


@pytest.mark.parametrize(("changes", "message"), [
    ({"recipe": None}, "expected recipe: the name of a script"),
    ({"recipe": "scaling"}, "no recipe 'scaling'"),
    ({"sizes": []}, "expected sizes: a mapping of names"),
    ({"token": [1]}, "unknown key 'token'.*did you mean 'tokens'"),
    ({"tokens": None}, "size b: expected one of tokens, budgets, tokens_per_parameter, got none"),
    ({"budgets": [1e9]}, "expected one of tokens, .* got tokens, budgets"),
    ({"tokens": ["1e6"]}, "tokens: .*expected numbers above 0"),
    ({"tokens": [float("inf")]}, "tokens: .*expected numbers above 0"),
    ({"tokens": [100, 4096]}, r"are \[0, 4\] steps of 1024 tokens"),
    ({"tokens": [4096, 4097]}, "expected different numbers"),
    ({"held_out": "d"}, "held_out: no size 'd'; expected some of a, b"),
    ({"seeds": 0}, "seeds: 0: expected a number of seeds above 0"),
    ({"options": {"steps": 5}}, "options: steps is chosen for each run"),
    ({"options": {"data": "synthetic", "widht": 5}}, "unknown option 'widht'.*did you mean"),
])  # fmt: skip
def test_descriptions_that_make_no_sweep(read: Reader, changes: dict, message: str) -> None:
    with pytest.raises((ScalingError, SettingsError, ValueError), match=message):
        read(**changes)


def test_files_that_are_no_sweep(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("{")
    for name, message in (("list", "expected a mapping"), ("broken", "not valid YAML"), ("absent", "No such file")):
        with pytest.raises(ScalingError, match=message):
            read_sweep(tmp_path / f"{name}.yaml")


def test_a_recipe_without_a_text_model() -> None:
    with pytest.raises(ScalingError, match=r"vit_cifar with model=.*expected a recipe of language modeling"):
        size_of(ROOT / "recipes" / "vit_cifar.py", ["data=synthetic"])


def test_the_sweep_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sweep = read_sweep(ROOT / "configs" / "sweeps" / "scaling_laws.yaml")
    sizes = [size.parameters for size in sweep.sizes]
    assert len(sizes) == 6 and 9_000 < sizes[0] < 11_000 and 380_000 < sizes[-1] < 420_000
    assert sweep.held_out == [sweep.sizes[-1].name]


def test_runs_and_what_is_left_of_them(read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that fails is one of the runs, and the same sweep repeats what is not complete."""
    calls = []

    def run(plan: compare.Plan, value: str, seed: int, minutes: float | None) -> str:
        calls.append((plan.out.name, value))
        if len(calls) == 2:
            return "error: loss is NaN at step 3"
        folder = plan.folder(value, seed)
        folder.mkdir(parents=True, exist_ok=True)
        result = {"finished": True, "seconds": 2.5, "result": {"test_loss": 4 / int(value)}}
        (folder / "metrics.json").write_text(json.dumps(result))
        return ""

    monkeypatch.setattr(compare, "_run", run)
    monkeypatch.setattr("zoo.training.scaling.sweep.check_values", lambda plan: None)
    sweep = read()
    runs = sweep.run()
    assert calls == [("size-a", "2"), ("size-a", "4"), ("size-b", "2"), ("size-b", "4")]
    assert [(run.size, run.tokens, run.seconds) for run in runs][::3] == [("a", 2048, 2.5), ("b", 4096, 2.5)]
    assert runs[0].loss == 2.0 and runs[1].failure == "error: loss is NaN at step 3" and runs[1].loss != runs[1].loss
    assert runs[0].flops == 6 * runs[0].parameters * 2048
    assert len(read_sweep(sweep.out / "sweep.yaml", sweep.out).read()) == 3  # the folder alone is enough
    assert not any(run.failure for run in sweep.run()) and len(calls) == 5
    shutil.rmtree(sweep.sizes[1].plan.out)
    assert [run.size for run in sweep.read()] == ["a", "a"]
    with pytest.raises(ValueError, match="holds a comparison with options"):
        read(options={"data": "synthetic", "lr": 0.1}).run()
