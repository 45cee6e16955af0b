"""The middle of a run: banner, training, test, model folder, last lines."""

import copy
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import torch
from rich.console import Console
from rich.markup import escape
from torch import Tensor

from zoo.checkpoints.model_card import Training, model_card
from zoo.checkpoints.save import save
from zoo.models.registry import build, family
from zoo.tasks.base import Task
from zoo.training import devices
from zoo.training.callbacks import Checkpoints, Clock, CsvLogger, Stops
from zoo.training.plots import Plot, save_plots
from zoo.training.progress import Bar, spoken
from zoo.training.result import Result
from zoo.training.run import Run
from zoo.training.run_dir import write_text
from zoo.training.trainer import make_trainer
from zoo.utils import distributed
from zoo.utils.console import clock_time, console

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

    from zoo.models.base import Model


Sample = dict[str, Any]  # a small raw batch
SHARES = ("test_accuracy", "test_f1", "test_wer")  # spoken in per cent


def fit(run: Run, task: Task, data: L.LightningDataModule, *, steps_per_epoch: int, sample: Sample | None = None,
        longer: Mapping[str, str] | None = None, try_it: str = "", callbacks: "Sequence[Callback]" = (),
        plots: Mapping[str, Plot] | None = None) -> Result:  # fmt: skip
    """Train to the last step, the end of the time budget or Ctrl-C; test the best model; write it all down.

    Args:
        run: Opened: its folder and its data are known.
        task: What is trained.
        data: With train, val and test loaders whose batches are keyed by the step.
        steps_per_epoch: Optimizer steps in a pass over the training set.
        sample: A small raw batch; with it the banner can say when the run will end.
        longer: Words of a longer run by the name of the data set, e.g. `{"cifar10": "epochs=40"}`.
        try_it: A command for the model that came out, `{model}` in it stands for its folder.
        callbacks: Further ones of Lightning's.
        plots: Further plots for the run folder, by the name of their file.

    Raises: Interrupted, NonFiniteLoss.
    """
    assert run.folder is not None and run.data is not None, "call run.open(...) first"
    words = (longer or {}).get(run.data.name, "")
    try:
        return _fit(run, task, data, steps_per_epoch, sample, words, try_it, callbacks, plots or {})
    finally:
        run.folder.release()
        distributed.forget()


def _fit(run: Run, task: Task, data: L.LightningDataModule, steps_per_epoch: int, sample: Sample | None, longer: str,
         try_it: str, further: "Sequence[Callback]", plots: Mapping[str, Plot]) -> Result:  # fmt: skip
    assert run.folder is not None
    out, t = console(), run.settings.trainer
    steps = t.steps or (t.epochs or 1) * steps_per_epoch
    validate_every = min(t.validate_every or steps_per_epoch, steps)
    clock = Clock(run.settings.data.batch_size)
    csv = CsvLogger(run.folder.path / "metrics.csv", clock)
    patience = getattr(getattr(run.settings, "task", None), "early_stopping_patience", 0)
    keeper = Checkpoints(run.folder.checkpoints, t.checkpoint_every, validate_every, task.monitor, task.mode, patience)
    stops = Stops(keeper, t.max_minutes)
    callbacks: list[Callback] = [clock, stops, keeper, *further]
    if t.progress:
        callbacks.append(Bar(out, clock))
    trainer = make_trainer(run.settings, run.folder.path, steps, validate_every, callbacks, csv)
    prepare_model(task, t.gradient_checkpointing)
    done = resumed_step(run, csv)
    banner(run, task, out, steps, steps_per_epoch, done, sample)
    if t.compile:
        task.model.compile()
    if done < steps:
        trainer.fit(task, data, ckpt_path=run.folder.last, weights_only=True)
        done = trainer.global_step
    early, worse = keeper.early, keeper.worse  # before the test, which takes up the best checkpoint
    figures = test(run, task, data, trainer)
    seconds = clock.seconds or _stored_seconds(run)
    over = done >= steps or early
    result = Result(figures, finished=over, steps=done, seconds=round(seconds, 3), folder=run.folder.path)
    if trainer.is_global_zero:
        write(run, task, result, steps, keeper, plots)
        if early:
            out.print(f"stopped early: step {keeper.best_step} was the best, {worse} validations ago")
        last_lines(run, out, result, steps, longer, stops.out_of_time, task.monitor, try_it)
    return result


def prepare_model(task: Task, checkpointing: bool) -> None:
    """Recompute activations if asked to."""
    if checkpointing:
        if not hasattr(task.model, "set_checkpointing"):
            raise ValueError(f"gradient_checkpointing=true: {type(task.model).__name__} has no set_checkpointing")
        cast(Any, task.model).set_checkpointing(True)


def resumed_step(run: Run, csv: CsvLogger) -> int:
    """The step that the run goes on from; the rows of `metrics.csv` after it are dropped."""
    assert run.folder is not None
    last, step = run.folder.last, 0
    if last is not None:
        step = int(torch.load(last, weights_only=True, mmap=True)["global_step"])
    if distributed.rank() == 0:
        csv.experiment.cut(step)
    return step


def banner(run: Run, task: Task, out: Console, steps: int, steps_per_epoch: int, done: int,
           sample: Sample | None) -> None:  # fmt: skip
    """Everything that one may want to know before the first step."""
    assert run.data is not None and run.folder is not None
    s, data = run.settings, run.data
    if warning := data.warning():
        out.print(f"\n  {warning}\n", style="bold black on yellow")
    weights = sum(p.numel() for p in task.model.parameters())
    frozen = sum(p.numel() for p in task.model.parameters() if not p.requires_grad)
    counts = f"{data.train:,} training and {data.test:,} test items"
    size = f"{weights:,} parameters" + (f", {frozen:,} frozen" if frozen else "")
    rows = [
        ("data", f"{data.name} ({'real' if data.real else 'NOT real'}), {counts}, {data.source}"),
        ("device", devices.describe_device(s)),
        ("precision", s.trainer.precision),
        ("model", f"{s.model.source or s.model.name}{_overrides(s)}, {size}"),
        ("steps", f"{steps:,} of {s.data.batch_size} items ({steps / steps_per_epoch:.3g} epochs)"),
        ("folder", _going_on(run, done)),
        ("expected end", expected_end(run, task, steps - done, steps_per_epoch, sample)),
    ]  # fmt: skip
    _print_rows(out, rows)


def expected_end(run: Run, task: Task, steps: int, steps_per_epoch: int, sample: Sample | None) -> str:
    """When the run will end, from the time of a few passes over a small batch."""
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
    return f"{clock_time(seconds)} (in about {spoken(seconds)}{budget})"


def seconds_per_item(task: Task, sample: Sample, accelerator: str, precision: str) -> float:
    """Time of forward and backward per item, on a copy of the task: the run itself is not touched."""
    device = torch.device("cuda" if accelerator == "cuda" else accelerator)
    with torch.random.fork_rng(devices=[]):
        probe = copy.deepcopy(task).to(device).train()
        batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in sample.items()}
        best = float("inf")
        for _ in range(2 if device.type == "cpu" else 5):
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=precision != "fp32"):
                probe.loss_of(batch, 0, 0).backward()
            if device.type != "cpu":
                torch.accelerator.synchronize()
            best = min(best, time.perf_counter() - start)
    return best / len(next(value for value in batch.values() if isinstance(value, Tensor)))


def test(run: Run, task: Task, data: L.LightningDataModule, trainer: L.Trainer) -> dict[str, float]:
    """Test the best model."""
    assert run.folder is not None
    best = run.folder.best
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        best = trainer.strategy.broadcast(best)  # rank 0 writes it, the others might look too early
    trainer.test(task, data, ckpt_path=best, verbose=False, weights_only=True)
    return {
        name: round(float(value), 6) for name, value in trainer.callback_metrics.items() if name.startswith("test_")
    }


def write(run: Run, task: Task, result: Result, planned: int, keeper: Checkpoints,
          plots: Mapping[str, Plot]) -> None:  # fmt: skip
    """`model/`, pictures, then `metrics.json`: what says finished comes last."""
    assert run.folder is not None and run.data is not None
    save_model(run, task, result)
    if run.settings.trainer.plots:
        save_plots(run, task, result, plots)
    s = run.settings
    run.folder.write_result({
        "recipe": run.recipe, "result": result.figures, "finished": result.finished, "data": run.data.name,
        "real": run.data.real, "source": run.data.source, "steps": result.steps, "planned_steps": planned,
        "seconds": result.seconds, "seed": s.seed, "best_step": keeper.best_step or None,
        f"best_{keeper.monitor}": keeper.best, "model": s.model.source or s.model.name,
        "parameters": sum(p.numel() for p in task.model.parameters()), "device": devices.describe_device(s),
        "precision": s.trainer.precision, "python": platform.python_version(), "torch": torch.__version__,
    })  # fmt: skip


def save_model(run: Run, task: Task, result: Result) -> None:
    """The best model as a zoo folder, with its README.md."""
    assert run.folder is not None
    model = whole(task, run.folder.best or run.folder.last)
    save(model, run.folder.model)
    write_card(run, model, result, run.folder.model)


def write_card(run: Run, model: "Model", result: Result, folder: Path, format: str = "zoo") -> None:
    """README.md of a model folder: data, figures, and the lines that load it."""
    assert run.data is not None
    s, data = run.settings, run.data
    facts = {"training items": f"{data.train:,}", "test items": f"{data.test:,}", "steps": f"{result.steps:,}",
             "seconds": f"{result.seconds:,.0f}", "seed": s.seed, "started from": s.model.source or "nothing",
             "trained on": devices.describe_device(s)}  # fmt: skip
    training = Training(command=run.command, data=data.name, real=data.real, source=data.source,
                        figures=result.figures, facts=facts)  # fmt: skip
    write_text(folder / "README.md", model_card(model, str(folder), format, training))


def whole(task: Task, checkpoint: Path | None) -> "Model":
    """The evaluated model on the host; where it is sharded, a copy filled from the checkpoint."""
    from torch.distributed.fsdp import FSDPModule

    model = cast("Model", task.evaluated)
    if not isinstance(model, FSDPModule):
        return cast("Model", task.finished(model.cpu()))
    assert checkpoint is not None
    prefix = "model." if task.ema is None else "ema."
    state = torch.load(checkpoint, weights_only=True, mmap=True)["state_dict"]
    copied = build(family(model.family), model.config, "cpu")
    copied.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    copied.variant, copied.preprocess, copied.labels = model.variant, model.preprocess, model.labels
    return cast("Model", task.finished(copied))


def last_lines(run: Run, out: Console, result: Result, planned: int, longer: str, out_of_time: bool, monitor: str,
               try_it: str) -> None:  # fmt: skip
    """What came out, where it is, and what to try now."""
    assert run.folder is not None and run.data is not None
    if out_of_time:
        out.print(f"time budget spent at step {result.steps} of {planned}; the same command goes on from there")
    folder = run.folder
    figure = monitor.replace("val_", "test_")
    value = result.figures.get(figure, float("nan"))
    spoken_value = f"{value:.2%}" if figure in SHARES else f"{value:.4f}"
    said = f"{spoken_value} on {run.data.name}"
    picture = folder.path / "sample.png"
    shown = picture if picture.exists() else "picture.png"
    others = [f"{n.removeprefix('test_')} {v:.4f}" for n, v in result.figures.items() if n not in (figure, "test_loss")]
    rows: list[tuple[str, Any]] = [
        (figure.replace("_", " "), said if run.data.real else f"{said} (NOT REAL DATA: {run.data.source})"),
        *([("beside it", ", ".join(others))] if others else []),
        ("model", folder.model),
        ("try", (try_it or f"zoo predict {{model}} {shown}").replace("{model}", str(folder.model))),
    ]
    if longer:
        rows.append(("longer", run.longer(longer)))
    _print_rows(out, rows)


def _print_rows(out: Console, rows: list[tuple[str, Any]]) -> None:
    wide = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        out.print(f"[bold]{name:<{wide}}[/bold]{escape(str(value))}")


def _going_on(run: Run, done: int) -> str:
    assert run.folder is not None
    path: Path = run.folder.path
    if done:
        return f"{path}, going on at step {done:,}"
    return f"{path}, starting over (no checkpoint yet)" if run.folder.unfinished else f"{path} (new)"


def _overrides(settings: Any) -> str:
    given = [f"{name}={value}" for name, value in settings.model.overrides.items()]
    return f" ({', '.join(given)})" if given else ""


def _stored_seconds(run: Run) -> float:
    """Seconds of training in the last checkpoint, for a run whose steps were all done before this start."""
    assert run.folder is not None
    if run.folder.last is None:
        return 0.0
    callbacks = torch.load(run.folder.last, weights_only=True, mmap=True)["callbacks"]
    return float(callbacks.get("Clock", {}).get("seconds", 0.0))
