"""Run a training: print the banner, train, test, save the model and the results, print a summary."""

import copy
import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import torch
from rich.console import Console
from rich.markup import escape
from torch import Tensor

from zoo.checkpoints.model_card import Training, model_card
from zoo.checkpoints.save import export_problem, save
from zoo.data.datamodule import KeyedDataModule
from zoo.models.base import Model
from zoo.models.registry import build, family
from zoo.tasks.base import Task
from zoo.training import devices
from zoo.training.callbacks import BestAndLastCheckpoints, CsvLogger, StopOnSignalOrTime, TrainingTimer
from zoo.training.checkpoint_files import check_best, check_last, step_of
from zoo.training.plots import Plot, save_plots
from zoo.training.progress import ProgressBar, format_duration
from zoo.training.result import Result
from zoo.training.run import Run
from zoo.training.run_dir import named_disk_errors
from zoo.training.trainer import make_trainer
from zoo.utils import distributed
from zoo.utils.console import clock_time, console
from zoo.utils.escape import printable

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback


Sample = dict[str, Any]  # a small raw batch
PERCENTAGES = ("test_accuracy", "test_f1", "test_wer")  # metrics that are printed in percent


def fit(run: Run, task: Task, data: L.LightningDataModule, *, steps_per_epoch: int, sample: Sample | None = None,
        longer_runs: Mapping[str, str] | None = None, example_command: Sequence[str] = (),
        callbacks: "Sequence[Callback]" = (), plots: Mapping[str, Plot] | None = None) -> Result:  # fmt: skip
    """Train until the last step, the end of the time budget or Ctrl-C; test the best model; save model and results.

    Args:
        run: A run whose folder and data are known: call `run.open` first.
        task: The task to train.
        data: Data module with train, val and test loaders whose batches are a function of the step.
        steps_per_epoch: Optimizer steps in a pass over the training set.
        sample: A small raw batch, from which the duration of the run is estimated.
        longer_runs: Options of a longer run for the summary, by name of the dataset, e.g. `{"cifar10": "epochs=40"}`.
        example_command: The words of a command that uses the trained model, for the summary; `{model}` stands for its
            folder.
        callbacks: Additional Lightning callbacks.
        plots: Additional plots for the run folder, by file name.

    Raises: TrainingInterrupted, NonFiniteLoss; RunError for a damaged checkpoint or a full disk.
    """
    assert run.folder is not None and run.data is not None, "call run.open(...) first"
    longer_run = (longer_runs or {}).get(run.data.name, "")
    if isinstance(data, KeyedDataModule):
        run.data = replace(run.data, trained_on=len(data.train), validation=len(data.val))
    try:
        with named_disk_errors(run.folder.path):
            return _fit(run, task, data, steps_per_epoch, sample, longer_run, example_command, callbacks, plots or {})
    except SystemExit as error:  # Lightning's own handling of a second Ctrl-C, which would exit without a word
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        run.folder.release()
        distributed.clear_decision()


def _fit(run: Run, task: Task, data: L.LightningDataModule, steps_per_epoch: int, sample: Sample | None,
         longer_run: str, example_command: Sequence[str], more_callbacks: "Sequence[Callback]",
         plots: Mapping[str, Plot]) -> Result:  # fmt: skip
    assert run.folder is not None
    out, t = console(), run.settings.trainer
    steps = t.steps or (t.epochs or 1) * steps_per_epoch
    validate_every = min(t.validate_every or steps_per_epoch, steps)
    timer = TrainingTimer(run.settings.data.batch_size)
    csv = CsvLogger(run.folder.path / "metrics.csv", timer)
    early_stopping_patience = getattr(getattr(run.settings, "task", None), "early_stopping_patience", 0)
    checkpoint_callback = BestAndLastCheckpoints(
        run.folder.checkpoints, t.checkpoint_every, validate_every, task.monitor, task.mode, early_stopping_patience
    )
    stop_callback = StopOnSignalOrTime(checkpoint_callback, t.max_minutes)
    callbacks: list[Callback] = [timer, stop_callback, checkpoint_callback, *more_callbacks]
    if t.progress:
        callbacks.append(ProgressBar(out, timer))
    trainer = make_trainer(run.settings, run.folder.path, steps, validate_every, callbacks, csv)
    prepare_model(task, t.gradient_checkpointing)
    done = resumed_step(run, csv)
    banner(run, task, out, steps, steps_per_epoch, done, sample)
    if t.compile:
        task.model.compile()
    if done < steps:
        trainer.fit(task, data, ckpt_path=run.folder.last, weights_only=True)
        done = trainer.global_step
    # Read before the test, which restores the state of the best checkpoint.
    stopped_early, worse = checkpoint_callback.stopped_early, checkpoint_callback.worse
    seconds = timer.seconds or _stored_seconds(run, timer)
    metrics = test(run, task, data, trainer)
    finished = done >= steps or stopped_early
    result = Result(metrics, finished=finished, steps=done, seconds=round(seconds, 3), folder=run.folder.path)
    if trainer.is_global_zero:
        write(run, task, result, steps, checkpoint_callback, plots)
        if stopped_early:
            best_step = checkpoint_callback.best_step
            out.print(f"early stopping: no improvement in {worse} validations; the best step was {best_step}")
        print_summary(run, out, result, steps, longer_run, stop_callback.out_of_time, task.monitor, example_command)
    return result


def prepare_model(task: Task, checkpointing: bool) -> None:
    """Enable gradient checkpointing if requested."""
    if checkpointing:
        if not hasattr(task.model, "set_checkpointing"):
            raise ValueError(f"gradient_checkpointing=true: {type(task.model).__name__} does not support it")
        cast(Any, task.model).set_checkpointing(True)


def resumed_step(run: Run, csv: CsvLogger) -> int:
    """The step from which the run resumes; later rows of `metrics.csv` are dropped.

    Raises: RunError for a damaged checkpoint.
    """
    assert run.folder is not None
    last, best, step = run.folder.last, run.folder.best, 0
    if last is not None:
        check_last(last)
        step = step_of(last)
    if best is not None:
        check_best(best, last)
    if distributed.rank() == 0:
        csv.experiment.cut(step)
    return step


def banner(run: Run, task: Task, out: Console, steps: int, steps_per_epoch: int, done: int,
           sample: Sample | None) -> None:  # fmt: skip
    """Print data, device, model, length and folder of the run before the first step."""
    assert run.data is not None and run.folder is not None
    s, data = run.settings, run.data
    if warning := data.warning():
        out.print(f"\n  {warning}\n", style="bold black on yellow", markup=False)
    parameters = sum(p.numel() for p in task.model.parameters())
    frozen = sum(p.numel() for p in task.model.parameters() if not p.requires_grad)
    size = f"{parameters:,} parameters" + (f", {frozen:,} frozen" if frozen else "")
    rows = [
        ("data", f"{data.name} ({data.kind}), {data.counts}, {data.source}"),
        ("device", devices.describe_device(s)),
        ("precision", s.trainer.precision),
        ("model", f"{s.model.source or s.model.name}{_overrides(s, task.model)}, {size}"),
        ("steps", f"{steps:,} of {s.data.batch_size} items ({steps / steps_per_epoch:.3g} epochs)"),
        ("folder", _describe_folder(run, done)),
        ("expected end", expected_end(run, task, steps - done, steps_per_epoch, sample)),
    ]  # fmt: skip
    if isinstance(task.model, Model) and (problem := export_problem(task.model)):
        rows.append(("no export", problem))
    _print_rows(out, rows)


def expected_end(run: Run, task: Task, steps: int, steps_per_epoch: int, sample: Sample | None) -> str:
    """Estimated end of the run, from the time of a few passes over a small batch."""
    t = run.settings.trainer
    if steps <= 0:
        return "now: all steps are done"
    if distributed.rank() != 0 or sample is None or t.strategy == "fsdp2":
        return "known after the first steps"
    assert run.data is not None
    per_item = seconds_per_item(task, sample, t.accelerator, t.precision) / devices.world(run.settings)
    validations = steps / (t.validate_every or steps_per_epoch)
    seconds = per_item * (steps * run.settings.data.batch_size + (validations + 1) * run.data.test / 3)
    budget = ""
    if t.max_minutes and 60 * t.max_minutes < seconds:
        budget = f", but max_minutes={t.max_minutes:g} stops it at {clock_time(60 * t.max_minutes)}"
    return f"{clock_time(seconds)} (in about {format_duration(seconds)}{budget})"


def seconds_per_item(task: Task, sample: Sample, accelerator: str, precision: str) -> float:
    """Time of forward and backward per item, measured on a copy of the task so that the run is not affected."""
    device = torch.device("cuda" if accelerator == "cuda" else accelerator)
    with torch.random.fork_rng(devices=[]):
        copied = copy.deepcopy(task).to(device).train()
        batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in sample.items()}
        best = float("inf")
        for _ in range(2 if device.type == "cpu" else 5):
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=precision != "fp32"):
                copied.loss_of(batch, 0, 0).backward()
            if device.type != "cpu":
                torch.accelerator.synchronize()
            best = min(best, time.perf_counter() - start)
    return best / len(next(value for value in batch.values() if isinstance(value, Tensor)))


def test(run: Run, task: Task, data: L.LightningDataModule, trainer: L.Trainer) -> dict[str, float]:
    """Test the best model; returns the test metrics."""
    assert run.folder is not None
    best = run.folder.best or run.folder.last  # no validation has given the monitored metric
    if best is not None:
        check_best(best, run.folder.last)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        best = trainer.strategy.broadcast(best)  # rank 0 wrote it, other ranks may not see it yet
    trainer.test(task, data, ckpt_path=best, verbose=False, weights_only=True)
    return {
        name: round(float(value), 6) for name, value in trainer.callback_metrics.items() if name.startswith("test_")
    }


def write(run: Run, task: Task, result: Result, planned: int, checkpoint_callback: BestAndLastCheckpoints,
          plots: Mapping[str, Plot]) -> None:  # fmt: skip
    """Write `model/`, the plots, then `metrics.json`, which marks the run as finished."""
    assert run.folder is not None and run.data is not None
    save_model(run, task, result)
    if run.settings.trainer.plots:
        save_plots(run, task, result, plots)
    s = run.settings
    run.folder.write_result({
        "recipe": run.recipe, "result": result.metrics, "finished": result.finished, "data": run.data.name,
        "real": run.data.real, "source": run.data.source, "steps": result.steps, "planned_steps": planned,
        "skipped_steps": task.guard.skipped, "seconds": result.seconds, "seed": s.seed,
        "best_step": checkpoint_callback.best_step or None,
        f"best_{checkpoint_callback.monitor}": checkpoint_callback.best, "model": s.model.source or s.model.name,
        "parameters": sum(p.numel() for p in task.model.parameters()), "device": devices.describe_device(s),
        "precision": s.trainer.precision, "python": platform.python_version(), "torch": torch.__version__,
    })  # fmt: skip


def save_model(run: Run, task: Task, result: Result) -> None:
    """The best model as a zoo folder, with its README.md."""
    assert run.folder is not None
    model = unsharded_model(task, run.folder.best or run.folder.last)
    save(model, run.folder.model, readme=run_card(run, model, result, run.folder.model))


def run_card(run: Run, model: Model, result: Result, folder: Path, format: str = "zoo") -> str:
    """The README.md of a model folder: data, metrics, and how to load the model."""
    assert run.data is not None
    s, data = run.settings, run.data
    facts = {"items trained on": f"{data.trained_on or data.train:,}", "validation items": f"{data.validation:,}",
             "test items": f"{data.test:,}", "tested on": data.test_name or None, "steps": f"{result.steps:,}",
             "seconds": f"{result.seconds:,.0f}", "seed": s.seed, "started from": s.model.source or "random weights",
             "trained on": devices.describe_device(s)}  # fmt: skip
    training = Training(command=run.command, data=data.name, real=data.real, source=data.source,
                        metrics=result.metrics, facts=facts)  # fmt: skip
    return model_card(model, str(folder), format, training)


def unsharded_model(task: Task, checkpoint: Path | None) -> Model:
    """The evaluated model on the CPU; for a sharded model, a copy with the weights of the checkpoint."""
    from torch.distributed.fsdp import FSDPModule

    model = cast(Model, task.evaluated)
    if not isinstance(model, FSDPModule):
        return cast(Model, task.finalize(model.cpu()))
    assert checkpoint is not None
    prefix = "model." if task.ema is None else "ema."
    state = torch.load(checkpoint, weights_only=True, mmap=True)["state_dict"]
    copied = build(family(model.family), model.config, "cpu")
    copied.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    for name in ("variant", "preprocess", "labels", "load_report", "extra_files", "other_files"):
        setattr(copied, name, getattr(model, name))
    return cast(Model, task.finalize(copied))


def print_summary(run: Run, out: Console, result: Result, planned: int, longer_run: str, out_of_time: bool,
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
        ("model", folder.model),
        ("use it", shlex.join(word.replace("{model}", str(folder.model)) for word in words)),
    ]
    if longer_run:
        rows.append(("train longer", run.longer_command(longer_run)))
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


def _overrides(settings: Any, model: Any) -> str:
    """The options of the model, sizes as they are in the model that was built or loaded."""
    actual = model.config.flat() if isinstance(model, Model) else {}
    values = settings.model.overrides | {
        name: actual[name] for name in settings.model.overrides if isinstance(actual.get(name), int | float | str)
    }
    overrides = [f"{name}={value}" for name, value in values.items()]
    return f" ({', '.join(overrides)})" if overrides else ""


def _stored_seconds(run: Run, timer: TrainingTimer) -> float:
    """Seconds of training in the last checkpoint, for a run that had done all its steps before this start."""
    assert run.folder is not None
    if run.folder.last is None:
        return 0.0
    callbacks = torch.load(run.folder.last, weights_only=True, mmap=True)["callbacks"]
    return float(callbacks[timer.state_key]["seconds"])
