"""Run a training: print the banner, train, test, save the model and the results, print a summary."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import torch

from zoo.data.datamodule import KeyedDataModule
from zoo.parallel.checks import check as check_plan
from zoo.tasks.base import Task
from zoo.tasks.bf16_weights import BF16Weights
from zoo.tasks.cuda_graph import GraphedModel
from zoo.tasks.mup import initialize_mup
from zoo.training import devices
from zoo.training.advice import if_longer
from zoo.training.banner import LateBaseline, print_banner, print_summary
from zoo.training.baseline import start_baseline
from zoo.training.callbacks import BestAndLastCheckpoints, CsvLogger, TrainingTimer, monitors
from zoo.training.checkpoint_files import check_best, check_last, check_model, step_of, values_of
from zoo.training.class_report import print_reports
from zoo.training.compile_blocks import compile_model
from zoo.training.cuda_graph import why_no_cuda_graph
from zoo.training.parse import SettingsError
from zoo.training.plots import Plot
from zoo.training.progress import ProgressBar
from zoo.training.result import Result
from zoo.training.run import Run
from zoo.training.run_dir import named_disk_errors
from zoo.training.same_ranks import SameOnAllRanks
from zoo.training.sample_pass import SamplePass
from zoo.training.save_run import check_export, save_run
from zoo.training.speed import TimedAugmentation, peak_flops
from zoo.training.stopping import StopOnSignalOrTime
from zoo.training.trainer import make_trainer
from zoo.utils import distributed
from zoo.utils.console import announce, console
from zoo.utils.stopwatch import Stopwatch

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback


def fit(run: Run, task: Task, data: L.LightningDataModule, *, steps_per_epoch: int = 0,
        longer_runs: Mapping[str, str] | None = None, example_command: Sequence[str] = (),
        callbacks: "Sequence[Callback]" = (), plots: Mapping[str, Plot] | None = None) -> Result:  # fmt: skip
    """Train until the last step, the end of the time budget or Ctrl-C; test the best model; save model and results.

    Args:
        run: A run whose folder and data are known: call `run.open` first.
        task: The task to train.
        data: Data module with train, val and test loaders whose batches are a function of the step.
        steps_per_epoch: Optimizer steps in a pass over the training set; 0 takes those of the data module.
        longer_runs: Options of a longer run for the summary, by name of the dataset, e.g. `{"cifar10": "epochs=40"}`.
        example_command: The words of a command that uses the trained model, for the summary; `{model}` stands for its
            folder.
        callbacks: Additional Lightning callbacks.
        plots: Additional plots for the run folder, by file name.

    Raises: TrainingInterrupted, NonFiniteLoss; RunError for a damaged checkpoint or a full disk; ValueError for a model
        that cannot be exported to the format of `export=`.
    """
    assert run.folder is not None and run.data is not None, "call run.open(...) first"
    try:
        prepare_model(task, run.config.trainer.gradient_checkpointing)
        prepare_mup(task)
        check_plan(run.config.plan, task.model)
        task.bf16_weights = BF16Weights(task.model) if run.config.trainer.precision == "bf16-master" else None
        check_export(run, task.model)
        if run.config.trainer.cuda_graph is True and (why := why_no_cuda_graph(run.config, task)):
            raise SettingsError(f"cuda_graph=true: {why}; set cuda_graph=auto to use CUDA graphs where possible")
        monitored = monitors(task, run.config.trainer.monitor)
        check_calibration(run, task, data)
        if isinstance(data, KeyedDataModule):
            run.data = replace(run.data, trained_on=len(data.train), validation=len(data.val))
            _fit_batch_size(run, data)
            steps_per_epoch = steps_per_epoch or data.steps_per_epoch
        run.started = True
        if distributed.rank() == 0 and getattr(getattr(run.config, "task", None), "baseline", False):
            run.baseline = start_baseline(task, data, monitored[0].removeprefix("val_"))
        run.longer_run = if_longer(run, (longer_runs or {}).get(run.data.name, ""), steps_per_epoch)
        with named_disk_errors(run.folder.path):
            return _fit(run, task, data, steps_per_epoch, example_command, callbacks, plots or {})
    except SystemExit as error:  # Lightning's own handling of a second Ctrl-C, which would exit without a word
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        if isinstance(data, KeyedDataModule):
            data.teardown("fit")  # Lightning leaves it out after an interruption or an error
        run.folder.discard_if_new()
        run.folder.release()
        distributed.clear_decision()


def _fit(run: Run, task: Task, data: L.LightningDataModule, steps_per_epoch: int,
         example_command: Sequence[str], more_callbacks: "Sequence[Callback]",
         plots: Mapping[str, Plot]) -> Result:  # fmt: skip
    assert run.folder is not None
    out, t = console(), run.config.trainer
    steps = t.steps or (t.epochs or 1) * steps_per_epoch
    validate_every = min(t.validate_every or steps_per_epoch, steps)
    timer = TrainingTimer(run.config.data.batch_size, run.folder)
    csv = CsvLogger(run.folder.path / "metrics.csv", timer)
    early_stopping_patience = getattr(getattr(run.config, "task", None), "early_stopping_patience", 0)
    monitored = monitors(task, t.monitor)
    checkpoint_callback = BestAndLastCheckpoints(
        run.folder.checkpoints, t.checkpoint_every, validate_every, *monitored, early_stopping_patience
    )
    stop_callback = StopOnSignalOrTime(checkpoint_callback, t.max_minutes)
    callbacks: list[Callback] = [timer, stop_callback, checkpoint_callback, *more_callbacks]
    if devices.world(run.config) > 1:
        callbacks.append(SameOnAllRanks(run.shared_values()))
    budget = 60 * t.max_minutes if t.max_minutes else None
    bar = ProgressBar(out, timer, budget)
    if t.progress:
        callbacks.append(bar)
    if run.baseline:
        callbacks.append(LateBaseline(run, data, out))
    trainer = make_trainer(run.config, run.folder.path, steps, validate_every, callbacks, csv)
    done = resumed_step(run, csv, task.model)
    expected = print_banner(run, task, data, out, steps, steps_per_epoch, done)
    bar.expected = expected if expected is None or budget is None else min(expected, budget)
    measure_speed(run, task, data, timer)
    compile_model(task.model, t.compile, t.accelerator)
    if t.cuda_graph and why_no_cuda_graph(run.config, task) is None:
        task.graphed = GraphedModel(task.model)
    if done < steps:
        trainer.fit(task, data, ckpt_path=run.folder.last, weights_only=True)
        done = trainer.global_step
    task.graphed = None  # the memory of its graphs
    # Read before the test, which restores the state of the best checkpoint.
    stopped_early, worse = checkpoint_callback.stopped_early, checkpoint_callback.worse
    seconds = timer.seconds or _stored_seconds(run, timer)
    metrics = test(run, task, data, trainer)
    finished = done >= steps or stopped_early
    result = Result(metrics, finished=finished, steps=done, seconds=round(seconds, 3), folder=run.folder.path)
    save_run(run, task, result, steps, checkpoint_callback, plots, timer)
    if trainer.is_global_zero:
        if stopped_early:
            best, stop = checkpoint_callback.best_step, checkpoint_callback.stop_monitor
            out.print(f"early stopping: no improvement of {stop} in {worse} validations; the best step was {best}")
        if found := getattr(task, "calibration", {}):
            out.print(f"[bold]temperature [/bold]{describe_calibration(found)}", highlight=False)
        print_reports(task, out)
        print_summary(run, out, result, steps, stop_callback.out_of_time, task.monitor, example_command)
    return result


def _fit_batch_size(run: Run, data: KeyedDataModule) -> None:
    """Round the batch size of a small training set down to what the devices divide, and give it to the settings."""
    parts = devices.smallest_batch(run.config)
    if data.batch_size % parts:
        data.shrink_batch(parts)
    run.config = replace(run.config, data=replace(run.config.data, batch_size=data.batch_size))


def prepare_model(task: Task, checkpointing: bool) -> None:
    """Enable gradient checkpointing if requested."""
    if checkpointing:
        if not hasattr(task.model, "set_checkpointing"):
            raise ValueError(f"gradient_checkpointing=true: {type(task.model).__name__} does not support it")
        cast(Any, task.model).set_checkpointing(True)


def prepare_mup(task: Task) -> None:
    """Give a new model, and its moving average, the initial values of muP if the settings say so."""
    if task.optim.mup_base_width:
        for model in filter(None, (task.model, task.ema)):
            initialize_mup(model, task.optim.mup_base_width)


def check_calibration(run: Run, task: Task, data: L.LightningDataModule) -> None:
    """Check that a temperature can be fitted, if the settings say so. Raises: SettingsError."""
    if not _calibrates(run):
        return
    if getattr(task, "objective", None) is None or cast(Any, task).objective.problem_type == "regression":
        raise SettingsError("calibration=temperature: a regression has no probabilities; omit it")
    if isinstance(data, KeyedDataModule) and data.val is data.test:
        raise SettingsError("calibration=temperature is fitted on validation items, and this run validates on the test "
                            "set, which it would then no longer test: set val_fraction= above 0")  # fmt: skip


def _calibrates(run: Run) -> bool:
    return getattr(getattr(run.config, "task", None), "calibration", "none") == "temperature"


def describe_calibration(found: Mapping[str, float]) -> str:
    """The fitted temperature in words."""
    before, after = (found[f"val_calibration_error{name}"] for name in ("_before", ""))
    if found["temperature"] == 1.0:
        return f"1: the validation items determine no other one (their calibration error is {before:.4f})"
    return f"{found['temperature']:.4g}: calibration error of the validation items {before:.4f} -> {after:.4f}"


def measure_speed(run: Run, task: Task, data: L.LightningDataModule, timer: TrainingTimer) -> None:
    """Let the timer measure data and augmentation and, on a GPU, the model FLOPs utilization."""
    if isinstance(data, KeyedDataModule):
        timer.parts["data"] = data.waiting
    if callable(augment := getattr(task, "augment", None)):
        timer.parts["augmentation"] = watch = Stopwatch()
        cast(Any, task).augment = TimedAugmentation(augment, watch)
    t = run.config.trainer
    if t.accelerator == "cuda" and isinstance(data, KeyedDataModule) and not devices.is_divided(run.config):
        try:
            timer.flops_per_item = SamplePass(task, data.sample(), "cuda", t.precision).flops_per_item()
        except (RuntimeError, NotImplementedError) as error:  # the run itself needs no count
            announce(f"no MFU: the FLOPs of this model cannot be counted ({str(error).splitlines()[0]})")
        timer.peak_flops = peak_flops(torch.cuda.get_device_name()) * devices.world(run.config)


def resumed_step(run: Run, csv: CsvLogger, model: torch.nn.Module) -> int:
    """The step from which the run resumes; later rows of `metrics.csv` are dropped.

    Raises: RunError for a damaged checkpoint, or one of another model.
    """
    assert run.folder is not None
    last, best, step = run.folder.last, run.folder.best, 0
    if last is not None:
        check_last(last)
        check_model(last, model)
        step = step_of(last)
    if best is not None:
        check_best(best, last)
    if distributed.rank() == 0:
        csv.experiment.cut(step)
    return step


def test(run: Run, task: Task, data: L.LightningDataModule, trainer: L.Trainer) -> dict[str, float]:
    """Test the best model; returns the test metrics."""
    assert run.folder is not None
    best = run.folder.best or run.folder.last  # no validation has given the monitored metric
    if distributed.in_group():
        best = trainer.strategy.broadcast(best)  # rank 0 wrote it, other ranks may not see it yet
    if best is not None:
        check_best(best, run.folder.last)
    if _calibrates(run):
        with cast(Any, task).fit_temperature():
            trainer.validate(task, data, ckpt_path=best, verbose=False, weights_only=True)
    trainer.test(task, data, ckpt_path=best, verbose=False, weights_only=True)
    return {
        name: round(float(value), 6) for name, value in trainer.callback_metrics.items() if name.startswith("test_")
    }


def _stored_seconds(run: Run, timer: TrainingTimer) -> float:
    """Seconds of training in the last checkpoint, for a run that had done all its steps before this start."""
    assert run.folder is not None
    if run.folder.last is None:
        return 0.0
    callbacks = values_of(run.folder.last)["callbacks"]
    return float(callbacks[timer.state_key]["seconds"])
