"""`zoo compare`: options, paired figures, running and going on, with a recipe that takes no time; one real run."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plot_checks import check_texts
from zoo.cli.main import main as cli
from zoo.training.sweep import compare as comparing
from zoo.training.sweep.check import errors_of
from zoo.training.sweep.compare import compare, find_recipe, flops, read_plan, split
from zoo.training.sweep.results import Comparison, Trial, choose_metric, interpolate, lower_is_better

# A stand-in for a recipe: writes the files that a run folder holds, in no time.
RECIPE = """
import csv, json, os, sys
from pathlib import Path
words = dict(word.split("=", 1) for word in sys.argv[1:])
folder = Path(words["run_dir"])
said = [f"{k}={v}" for k, v in sorted(words.items()) if k not in ("run_dir", "plots", "progress")]
with open(folder.parent.parent / "calls.txt", "a") as calls:
    calls.write(" ".join(said) + "\\n")
value, seed = words["attention"], int(words["seed"])
if value == "unknown":
    sys.exit(print("error: no attention kind 'unknown'", file=sys.stderr) or 2)
if value == "diverges":
    sys.exit(print("error: loss is NaN at step 7", file=sys.stderr) or 1)
if os.environ.get("STOP_AT") == f"{value}/{seed}":
    sys.exit(130)
gain, pace = (0.1 + 0.01 * seed, 2.0) if value == "fast" else (0.0, 4.0)
with open(folder / "metrics.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["step", "val_accuracy", "train_loss", "items_per_second", "seconds"])
    for step in (10, 20, 30):
        rows.writerow([step, 0.01 * step + 0.1 * seed + gain, 1 / step, 100 / pace, pace * step])
result = {"finished": "max_minutes" not in words, "seconds": pace * 30, "real": False, "data": "synthetic"}
(folder / "metrics.json").write_text(json.dumps(result | {"parameters": 1000, "result": {"test_accuracy": 0.1 * seed}}))
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quick.py").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calls(root: Path) -> list[str]:
    return (root / "runs" / "compare-quick-attention" / "calls.txt").read_text().splitlines()


# --- options ------------------------------------------------------------------------------------------------------


def test_split_minds_brackets_and_quotes() -> None:
    assert split("softmax, performer,my_file:MyCore") == ["softmax", "performer", "my_file:MyCore"]
    assert split("{kind: local, window: 9},[softmax, [linear, linear]]") == [
        "{kind: local, window: 9}",
        "[softmax, [linear, linear]]",
    ]
    assert split("'a,b',c") == ["'a,b'", "c"] and split("one") == ["one"]


def test_a_plan(recipe: Path) -> None:
    plan = read_plan("quick", ["attention=softmax,linear", "seeds=2", "max_minutes=5", "lr=1e-3", "betas=[0.9, 0.95]"])
    assert (plan.key, plan.values, plan.seeds, plan.minutes) == ("attention", ["softmax", "linear"], [0, 1], 5.0)
    assert plan.shared == ["lr=1e-3", "betas=[0.9, 0.95]"] and plan.out == Path("runs/compare-quick-attention")
    assert read_plan("quick", ["depth=2,4", "seeds=3,8"]).seeds == [3, 8]
    local, other = "{kind: local, window: 9}", "{kind: local, window: 7}"
    assert plan.folder("softmax", 1) == plan.out / "softmax" / "seed-1" and plan.folder(local, 0) != plan.folder(
        other, 0
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["lr=1e-3"], "no option has several values"),
        (["attention=a,b", "depth=1,2", "width=8,9"], "attention and depth and width have several values"),
        (["attention=a,b", "depth=1,1"], "depth=1,1: expected values that are all different"),
        (["attention=a,a"], "all different"),
        (["attention=a,"], "not empty"),
        (["attention=a,b", "seed=3"], "seeds=3"),
        (["attention=a,b", "run_dir=x"], "out="),
        (["attention=a,b", "max_minutes=soon"], "above 0"),
        (["attention=a,b", "seeds=0"], "at least one seed"),
        (["attention=a,b", "seeds=x"], "expected a number of seeds"),
        (["attention=a,b", "attention=c,d"], "given twice"),
        (["attention"], "key=value"),
    ],
)
def test_options_that_make_no_comparison(recipe: Path, options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_plan("quick", options)


def test_recipes_are_found_by_name_and_path(recipe: Path) -> None:
    assert find_recipe("quick") == find_recipe("recipes/quick.py")
    with pytest.raises(ValueError, match="did you mean 'quick'"):
        find_recipe("quik")
    with pytest.raises(ValueError, match="does not exist"):
        find_recipe("nothing.py")


# --- figures ------------------------------------------------------------------------------------------------------


def test_interpolation() -> None:
    curve = [(10, 1.0, 0.2), (20, 3.0, 0.4)]
    assert interpolate(curve, 0, 15) == pytest.approx(0.3) and interpolate(curve, 1, 1.5) == pytest.approx(0.25)
    assert interpolate(curve, 0, 5) == 0.2 and interpolate(curve, 0, 20) == 0.4 and interpolate(curve, 0, 99) == 0.4


def test_the_metric_is_an_accuracy_before_a_loss() -> None:
    def logged(*names: str) -> list[Trial]:
        return [Trial("a", 0, Path(), {name: [(1, 1.0, 1.0)] for name in names})]

    assert choose_metric(logged("lr", "train_loss", "val_loss", "val_accuracy")) == "val_accuracy"
    assert (
        choose_metric(logged("train_loss", "val_loss")) == "val_loss"
        and choose_metric(logged("train_loss")) == "train_loss"
    )
    with pytest.raises(ValueError, match="the runs logged train_loss"):
        choose_metric(logged("train_loss"), "val_accuracy")
    assert lower_is_better("val_loss") and not lower_is_better("val_accuracy")
    both = logged("val_image_to_text_median_rank", "val_recall")
    both[0].result["best_val_recall"] = 0.5
    assert choose_metric(both) == "val_recall" and lower_is_better("val_image_to_text_median_rank")


def made(values: dict[str, list[float]], steps: int = 10) -> Comparison:
    trials = [
        Trial(value, seed, Path(), {"val_accuracy": [(steps, 5.0, figure)]})
        for value, metrics in values.items()
        for seed, figure in enumerate(metrics)
    ]
    seeds = list(range(max(map(len, values.values()))))
    return Comparison("r", "attention", list(values), seeds, trials, "val_accuracy", Path())


def test_differences_are_paired_by_seed() -> None:
    """Seeds that differ much and values that differ little: pairing sees it, unpaired errors would not."""
    comparison = made({"a": [0.1, 0.5, 0.9], "b": [0.12, 0.53, 0.91]})
    found = comparison.at("b", time=False)
    assert found is not None and found.difference == pytest.approx(0.02)
    assert found.error == pytest.approx(0.01 / math.sqrt(3)) and found.mean == pytest.approx(0.52)
    first = comparison.at("a", time=True)
    assert first is not None and first.difference is None
    assert "+0.0200 ± 0.0058" in str(comparison)


def test_one_seed_has_no_standard_error_and_a_failed_run_takes_no_part() -> None:
    single = made({"a": [0.1], "b": [0.3]})
    found = single.at("b", time=False)
    assert found is not None and found.error is None and "there is no standard error for one seed" in str(single)
    broken = made({"a": [0.1, 0.2], "b": [0.3, 0.3]})
    broken.trials[2].failure = "loss is NaN"
    found = broken.at("b", time=False)
    assert found is not None and found.difference == pytest.approx(0.1) and not broken.ok
    assert "b (failed)" in str(broken) and "b, seed 0: loss is NaN" in str(broken)


# --- running ------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe's process without torch: what it would record takes longer than the recipe."""
    runner = recipe / "runner.py"
    runner.write_text("import runpy, sys\nsys.argv = sys.argv[2:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n")
    monkeypatch.setattr(comparing, "_RUNNER", ("-S", str(runner)))
    return recipe


def test_a_comparison(quick: Path) -> None:
    comparison = compare("quick", ["attention=slow,fast", "seeds=3", "lr=1"])
    assert comparison.ok and comparison.metric == "val_accuracy" and len(comparison.trials) == 6
    assert calls(quick)[:2] == ["attention=slow lr=1 seed=0", "attention=fast lr=1 seed=0"]
    assert comparison.equal_steps == 30 and comparison.equal_seconds == 60.0
    steps, seconds = (comparison.at("fast", time=time) for time in (False, True))
    assert steps is not None and steps.difference == pytest.approx(0.11)
    assert steps.error == pytest.approx(0.01 / math.sqrt(3))
    assert seconds is not None and seconds.difference == pytest.approx(0.11 + 0.15)  # slow is at step 15 by then
    row = comparison.rows()[1]
    assert row["test_accuracy"] == pytest.approx(0.1) == row["standard_deviation_of_test_accuracy"]
    assert "test accuracy" in str(comparison) and "0.1000 ± 0.1000" in str(comparison)
    assert row["parameters"] == 1000 and row["items_per_second"] == 50 and row["flops"] is None
    assert "synthetic data" in str(comparison) and "not measured" in str(comparison)
    assert json.loads((comparison.folder / "comparison.json").read_text())["rows"][1] == row
    assert comparison.plot_file.read_bytes()[:4] == b"\x89PNG" and (comparison.folder / "comparison.md").is_file()


def test_it_goes_on_where_it_was_interrupted_and_can_grow(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOP_AT", "fast/0")
    with pytest.raises(KeyboardInterrupt):
        compare("quick", ["attention=slow,fast", "seeds=1"])
    monkeypatch.delenv("STOP_AT")
    assert len(calls(quick)) == 2
    compare("quick", ["attention=slow,fast", "seeds=1"])
    assert calls(quick)[2:] == ["attention=fast seed=0"]
    compare("quick", ["attention=slow,fast,other", "seeds=2"])
    assert len(calls(quick)) == 7  # one more value, one more seed; nothing twice
    compare("quick", ["attention=slow,fast,other", "seeds=2"])
    assert len(calls(quick)) == 7
    with pytest.raises(ValueError, match="holds a comparison with options"):
        compare("quick", ["attention=slow,fast", "seeds=1", "lr=2"])


def test_a_time_budget_is_that_of_the_whole_run(quick: Path) -> None:
    compare("quick", ["attention=slow,fast", "seeds=1", "max_minutes=2"])
    assert [call.split()[1] for call in calls(quick)] == ["max_minutes=2", "max_minutes=2"]
    compare("quick", ["attention=slow,fast", "seeds=1", "max_minutes=2"])  # slow has trained its two minutes, fast one
    assert [call.split()[:2] for call in calls(quick)[2:]] == [["attention=fast", "max_minutes=1"]]
    compare("quick", ["attention=slow,fast", "seeds=1", "max_minutes=3"])
    assert [call.split()[1] for call in calls(quick)[3:]] == ["max_minutes=1", "max_minutes=2"]


def test_what_the_recipe_refuses_ends_it_and_what_diverges_does_not(quick: Path) -> None:
    with pytest.raises(ValueError, match="attention=unknown: no attention kind"):
        compare("quick", ["attention=unknown,slow", "seeds=1", "out=a"])
    comparison = compare("quick", ["attention=slow,diverges", "seeds=1", "out=b"])
    assert not comparison.ok and comparison.rows()[1]["failed"] == ["seed 0: error: loss is NaN at step 7"]
    assert comparison.rows()[1]["at_equal_steps"] is None


@pytest.mark.parametrize(("values", "status"), [("slow,fast", 0), ("slow,diverges", 1), ("slow,unknown", 2)])
def test_the_exit_status_says_whether_a_run_failed(quick: Path, values: str, status: int) -> None:
    assert cli(["compare", "quick", f"attention={values}", "seeds=1"]) == status


def test_nothing_here_brings_torch() -> None:
    code = "import sys, zoo.training.sweep.compare; assert not {'torch', 'matplotlib', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the real thing -----------------------------------------------------------------------------------------------


RECIPES = Path(__file__).parents[3] / "recipes"
SHORT = ["data=synthetic", "steps=1", "train_size=64", "width=12", "depth=1", "heads=1", "mlp_dim=12", "seed=0"]


def test_every_kind_of_mistake_is_found_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").write_text("")
    mistakes = {
        "attention=nonsense": "unknown attention 'nonsense'",
        "attention={kind: local, window: -1}": "window",
        "attention=missing.py:Core": "missing.py",
        "heads=5": "heads",
        "model.name=vit_nonsense": "no model 'vit_nonsense'",
        "model.source=no_such_folder": "no_such_folder",
        "data=no_such_folder": "no_such_folder",
        "data=empty.csv": "empty.csv",
        "monitor=nonsense": "nonsense",
        "lr=fast": "lr",
        "nonsense=1": "nonsense",
    }
    fine = ["attention=softmax", "attention=performer", "heads=2"]
    changed = [*mistakes, *fine]
    words = [[*(w for w in SHORT if w.split("=")[0] != each.split("=")[0]), each] for each in changed]
    for each, error in zip(changed, errors_of(RECIPES / "vit_cifar.py", words), strict=True):
        if each in fine:
            assert error == "", each
        else:
            assert mistakes[each] in error, f"{each}: {error!r}"
    assert [file.name for file in tmp_path.iterdir()] == ["empty.csv"]  # nothing is left behind


def test_a_mistake_in_the_last_value_ends_a_comparison_before_the_first_run(quick: Path, monkeypatch) -> None:
    """With a recipe in the form of ours; the checks of the values are replaced, as they take seconds."""
    script = quick / "recipes" / "quick.py"
    seen: list[list[str]] = []

    def found(path: Path, options: list[list[str]]) -> list[str]:
        seen.extend(options)
        return ["no such attention" * ("typo" in words[0]) for words in options]

    monkeypatch.setattr(comparing, "errors_of", found)
    compare("quick", ["attention=slow,fast", "seeds=1", "out=a"])
    assert not seen  # a script of another form is not checked
    script.write_text(script.read_text() + "\n# zoo.training.main\n")
    with pytest.raises(ValueError, match="attention=typo: no such attention\nattention=typo2: no such attention"):
        compare("quick", ["attention=slow,typo,typo2", "seeds=1", "lr=1"])
    assert seen[0] == ["attention=slow", "lr=1", "seed=0"] and not (quick / "runs").exists()
    seen.clear()
    compare("quick", ["attention=slow,fast", "seeds=1"])
    compare("quick", ["attention=slow,fast,other", "seeds=2"])
    assert [words[0] for words in seen] == ["attention=slow", "attention=fast", "attention=other"]  # each once


def test_flops_of_a_saved_model(tmp_path: Path) -> None:
    import zoo

    model = zoo.create_model("vit_cifar_tiny", depth=1, width=12, heads=1, stem="patch", seed=0)
    zoo.save(model, tmp_path / "model")
    counted = flops(tmp_path / "model")
    matrices = [p for name, p in model.named_parameters() if name.startswith("blocks") and p.ndim == 2]
    linear = 2 * 64 * sum(p.numel() for p in matrices)
    scores = 2 * 2 * 65**2 * 12
    assert counted is not None and linear + scores * 0.9 < counted < 1.3 * (linear + scores)
    assert flops(tmp_path / "nothing") is None


@pytest.mark.parametrize(("values", "seeds", "steps"), [(["only"], [0], 1), (["a", "$b_1$"], [0, 1, 2], 30),
                         ([f"/a/long/path/of/a/folder/of/weights/number_{i}" for i in range(16)], [0], 5)],
                         ids=["one point", "two", "many"])  # fmt: skip
def test_the_plot_can_be_read(values: list[str], seeds: list[int], steps: int) -> None:
    points = [(i * 10, i * 2.0, i / (i + 5)) for i in range(1, steps + 1)]
    trials = [Trial(value, seed, Path(), {"val_accuracy": points}) for value in values for seed in seeds]
    figure = Comparison("quick", "model.overrides.attention", values, seeds, trials, "val_accuracy", Path()).figure()
    texts = check_texts(figure)
    assert any("standard error" in text for text in texts) == (len(seeds) > 1)
    (legend,) = figure.legends
    boxes = [legend.get_window_extent(), *(axis.get_window_extent() for axis in figure.axes)]
    assert boxes[0].x0 >= max(box.x1 for box in boxes[1:]), "the legend covers no curve"
    curves = [line for line in figure.axes[0].get_lines() if line.get_marker() not in (None, "None")]
    looks = {(line.get_linestyle(), line.get_color(), line.get_marker()) for line in curves}
    assert len(looks) == len(legend.get_texts()) == len(values), "curves can be distinguished"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux gives a new process the peak of the one that started it")
def test_the_peak_of_memory_is_that_of_the_trial_alone() -> None:
    child = """
import sys
from types import SimpleNamespace
sys.modules["torch"] = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
from zoo.training.sweep.compare import peak_memory
print(peak_memory())
"""
    parent = """
import subprocess, sys
held = b"x" * 2**29
sys.exit(subprocess.run([sys.executable, "-c", sys.argv[1]]).returncode)
"""
    done = subprocess.run([sys.executable, "-c", parent, child], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 2**23 < int(done.stdout) < 2**29
