"""What a run prints: the banner before the first step, and the summary at the end."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from rich.console import Console
from rich.markup import escape

from zoo.checkpoints.save import export_problem
from zoo.data.datamodule import KeyedDataModule
from zoo.models.base import Model
from zoo.tasks.base import Task
from zoo.tasks.mup import describe_mup
from zoo.training import devices
from zoo.training.advice import after_training, before_training
from zoo.training.baseline import Baseline
from zoo.training.callbacks import monitors
from zoo.training.metrics_file import MetricsTable
from zoo.training.result import Result
from zoo.training.run import Run
from zoo.training.sample_pass import SamplePass
from zoo.utils import distributed
from zoo.utils.console import clock_time, format_duration
from zoo.utils.escape import printable

BASELINE_SECONDS = 1.0  # that the banner waits for the baseline; a later one is shown after the step when it is known
PRECISIONS = {"bf16-master": "bf16-master: steps in bfloat16, with weights cast from the float32 ones that are trained"}
PERCENTAGES = ("test_accuracy", "test_f1", "test_mean_iou", "test_wer")  # metrics that are printed in percent


def print_banner(run: Run, task: Task, loaders: Any, out: Console, steps: int, steps_per_epoch: int,
                 done: int) -> float | None:  # fmt: skip
    """Print data, device, model, length and folder of the run before the first step.

    Returns: the seconds that the run is expected to take; None if that is not known.
    """
    assert run.data is not None and run.folder is not None
    s, data = run.config, run.data
    if warning := data.warning():
        out.print(f"\n  {warning}\n", style="bold black on yellow", markup=False)
    frozen = sum(p.numel() for p in task.model.parameters() if not p.requires_grad)
    size = f"{task.size:,} parameters" + (f", {frozen:,} frozen" if frozen else "")
    if run.baseline:
        run.baseline.wait(BASELINE_SECONDS)
    seconds = expected_seconds(run, task, steps - done, steps_per_epoch, loaders)
    rows = [
        ("data", f"{data.name} ({data.kind}), {data.counts}, {data.source}"),
        *(("note", note) for note in data.notes),
        ("device", devices.describe_device(s)),
        ("precision", PRECISIONS.get(s.trainer.precision, s.trainer.precision)),
        ("model", f"{run.model_name}{_overrides(s, task.model)}, {size}"),
        *([("mup", describe_mup(task.model, base))] if (base := task.optim.mup_base_width) else []),
        ("steps", f"{steps:,} of {s.data.batch_size} items ({steps / steps_per_epoch:.3g} epochs)"),
        ("best step", describe_monitors(run, task)),
        ("folder", _describe_folder(run, done)),
        *([("resume", resume)] if (resume := describe_resume(run, task, steps - done, loaders)) else []),
        *([("baseline", run.baseline.describe(0))] if run.baseline else []),
        ("expected end", describe_end(run, steps - done, seconds)),
    ]  # fmt: skip
    if isinstance(task.model, Model) and (problem := export_problem(task.model)):
        rows.append(("no export", problem))
    rows += [("advice", advice) for advice in before_training(run, loaders, _described_baseline(run))]
    _print_rows(out, rows)
    return seconds


def _described_baseline(run: Run) -> Baseline | None:
    return run.baseline.wait(0) if run.baseline and run.baseline.is_described else None


class LateBaseline(L.Callback):
    """Prints a baseline that the banner could not wait for, and the advice that rests on it, once they are known."""

    def __init__(self, run: Run, loaders: Any, out: Console) -> None:
        self.run, self.loaders, self.out = run, loaders, out

    def on_train_batch_end(self, *args: Any) -> None:
        """Print them after the first step when they are known."""
        baseline = self.run.baseline
        if baseline is None or baseline.is_described:
            return
        if baseline.wait(0) is None and not baseline.problem:
            return
        rows = [("baseline", baseline.describe(0))]
        printed = before_training(self.run, self.loaders, None)
        new = before_training(self.run, self.loaders, _described_baseline(self.run))
        _print_rows(self.out, rows + [("advice", advice) for advice in new if advice not in printed])


def describe_end(run: Run, steps: int, seconds: float | None) -> str:
    """The expected end of a run of so many steps, in about so many seconds."""
    if steps <= 0:
        return "now: all steps are done"
    if seconds is None:
        return "known after the first steps"
    minutes, budget = run.config.trainer.max_minutes, ""
    if minutes and 60 * minutes < seconds:
        budget = f", but max_minutes={minutes:g} stops it at {clock_time(60 * minutes)}"
    return f"{clock_time(seconds)} (in about {format_duration(seconds)}{budget})"


def expected_seconds(run: Run, task: Task, steps: int, steps_per_epoch: int, loaders: Any) -> float | None:
    """Estimated seconds of the run, from the time of a few passes over a small batch; None if they are not known."""
    t, divided = run.config.trainer, devices.is_divided(run.config)
    if steps <= 0 or distributed.rank() != 0 or not isinstance(loaders, KeyedDataModule) or divided:
        return None
    assert run.data is not None
    sample = SamplePass(task, loaders.sample(), t.accelerator, t.precision)
    # While the baseline is computed, a pass mostly waits for its thread, which the steps do for some seconds only.
    shared = run.baseline is not None and run.baseline.is_computing
    clock = time.thread_time if shared and t.accelerator == "cpu" else time.perf_counter
    per_item = sample.seconds_per_item(clock) / devices.world(run.config)
    validations = steps / (t.validate_every or steps_per_epoch)
    validation = validations * (run.data.validation or run.data.test)
    return per_item * (steps * run.config.data.batch_size + (validation + run.data.test) / 3)


def describe_resume(run: Run, task: Task, steps: int, loaders: Any) -> str:
    """What a GPU makes of a resumed run, if its kernels give other gradients for the same batch; else empty."""
    t = run.config.trainer
    if t.accelerator != "cuda" or t.deterministic or steps <= 0 or not isinstance(loaders, KeyedDataModule):
        return ""
    if devices.is_divided(run.config) or SamplePass(task, loaders.sample(), t.accelerator, t.precision).repeats():
        return ""
    return ("equal to rounding only: kernels of this GPU give other gradients for the same batch; deterministic=true "
            "makes it exact")  # fmt: skip


def print_summary(run: Run, out: Console, result: Result, planned: int, out_of_time: bool,
                  monitor: str, example_command: Sequence[str]) -> None:  # fmt: skip
    """Print the test metrics, the model folder, and commands to use the model or train longer."""
    assert run.folder is not None and run.data is not None
    if out_of_time:
        out.print(f"time budget used up at step {result.steps} of {planned}; run the same command again to resume")
    folder = run.folder
    metric = monitor.replace("val_", "test_")
    value = result.metrics.get(metric, float("nan"))
    formatted = f"{value:.2%}" if metric in PERCENTAGES else f"{value:.4f}"
    image = folder.path / "sample.png"
    words = example_command or ("zoo", "predict", "{model}", str(image if image.exists() else "image.png"))
    source = "" if run.data.real else f" ({run.data.kind}: {run.data.source})"
    others = [f"{n.removeprefix('test_')} {v:.4f}" for n, v in result.metrics.items() if n not in (metric, "test_loss")]
    rows: list[tuple[str, Any]] = [
        (metric.replace("_", " "), f"{formatted} on {run.data.test_name or run.data.name}{source}"),
        *([("other metrics", ", ".join(others))] if others else []),
        *([("baseline", run.baseline.describe())] if run.baseline else []),
        ("model", folder.model),
        ("use it", shlex.join(word.replace("{model}", str(folder.model)) for word in words)),
    ]
    if run.longer_run:
        rows.append(("train longer", run.longer_command(run.longer_run)))
    history = MetricsTable(folder.path / "metrics.csv").rows()
    found = run.baseline.wait() if run.baseline else None
    rows += [("advice", advice) for advice in after_training(run, result, found, history)]
    _print_rows(out, rows)


def _print_rows(out: Console, rows: list[tuple[str, Any]]) -> None:
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        out.print(f"[bold]{name:<{width}}[/bold]{escape(printable(value))}")


def _describe_folder(run: Run, done: int) -> str:
    assert run.folder is not None
    path: Path = run.folder.path
    if done:
        return f"{path}, resuming at step {done:,}"
    return f"{path}, restarting (no checkpoint yet)" if run.folder.unfinished else f"{path} (new)"


def describe_monitors(run: Run, task: Task) -> str:
    """What selects the best checkpoint, and what may stop the run early."""
    monitor, mode, stop_monitor, _ = monitors(task, run.config.trainer.monitor)
    allowed = getattr(getattr(run.config, "task", None), "early_stopping_patience", 0)
    stop = f"; stops after {allowed} validations without a better {stop_monitor}" if allowed else ""
    return f"that of the {'highest' if mode == 'max' else 'lowest'} {monitor}{stop}"


def _overrides(settings: Any, model: Any) -> str:
    """The options of the model, sizes as they are in the model that was built or loaded."""
    actual = model.config.flat() if isinstance(model, Model) else {}
    values = settings.model.overrides | {
        name: actual[name] for name in settings.model.overrides if isinstance(actual.get(name), int | float | str)
    }
    overrides = [f"{name}={value}" for name, value in values.items()]
    return f" ({', '.join(overrides)})" if overrides else ""
