"""What a run writes at its end: the model, its README.md and its export, the plots, the results."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from rich.markup import escape

from zoo.checkpoints import save
from zoo.checkpoints.formats.training_checkpoint import own_weights
from zoo.checkpoints.load import load
from zoo.checkpoints.model_card import Training, model_card
from zoo.checkpoints.stages import whole_model
from zoo.models.base import Model
from zoo.models.text import DecoderConfig
from zoo.parallel.stages import is_divided, is_stage
from zoo.tasks.base import Task
from zoo.tasks.lora import without_adapters
from zoo.training import devices
from zoo.training.callbacks import BestAndLastCheckpoints, TrainingTimer
from zoo.training.class_report import write_reports
from zoo.training.parse import SettingsError
from zoo.training.plots import Plot, save_plots
from zoo.training.result import Result
from zoo.training.run import Run
from zoo.training.sharded_checkpoints import StoredCheckpoint, model_tensors
from zoo.utils import distributed
from zoo.utils.console import console


def save_run(run: Run, task: Task, result: Result, planned: int, checkpoint_callback: BestAndLastCheckpoints,
          plots: Mapping[str, Plot], timer: TrainingTimer) -> None:  # fmt: skip
    """Write `model/` and its export, the plots, then `metrics.json`, which marks the run as finished.

    Called by all processes, which save a sharded model together; the rest is rank 0's.
    """
    assert run.folder is not None and run.data is not None
    save_model(run, task, result)
    if distributed.rank() != 0:
        return
    export_model(run, result)
    if run.config.trainer.plots:
        save_plots(run, task, result, plots)
    reports = write_reports(run.folder.path, task)
    s = run.config
    run.folder.write_result({
        "recipe": run.recipe, "result": result.metrics, "finished": result.finished, "data": run.data.name,
        "real": run.data.real, "source": run.data.source, "steps": result.steps, "planned_steps": planned,
        "skipped_steps": task.guard.skipped, "seconds": result.seconds, "seed": s.seed,
        "best_step": checkpoint_callback.best_step or None,
        f"best_{checkpoint_callback.monitor}": checkpoint_callback.best, "monitor": checkpoint_callback.monitor,
        "stop_monitor": checkpoint_callback.stop_monitor, "validation": checkpoint_callback.best_metrics,
        "model": run.model_name,
        "parameters": task.size, "device": devices.describe_device(s),
        "baseline": run.baseline.as_dict() if run.baseline else None,
        **speed_of(timer), "precision": s.trainer.precision, "python": platform.python_version(),
        "torch": torch.__version__,
        **reports,
    })  # fmt: skip


def speed_of(timer: TrainingTimer) -> dict[str, Any]:
    """Speed of training and use of the GPU; None where they are not known, such as the speed of a run of one step."""
    rate = timer.mean_items_per_second()
    shares = {f"{name}_share": round(share, 4) for name, share in timer.shares().items()}
    return {"items_per_second": rate and round(rate, 2), **timer.use_of_gpu(rate), **shares}


def save_model(run: Run, task: Task, result: Result) -> None:
    """The best model as a zoo folder, with its README.md; of a sharded one, no process holds more than one tensor."""
    assert run.folder is not None
    model = cast(Model, task.evaluated)
    has_adapters = any(".lora_" in name for name, _ in model.named_parameters())
    if is_divided(model) and not has_adapters:
        task.finalize(model)
    elif distributed.rank() != 0:
        return
    else:
        model = unsharded_model(task, run.folder.best or run.folder.last)
    described = whole_model(model) if is_stage(model) else model
    save.save(model, run.folder.model, readme=run_card(run, described, result, run.folder.model))


def run_card(run: Run, model: Model, result: Result, folder: Path, format: str = "zoo") -> str:
    """The README.md of a model folder: data, metrics, and how to load the model."""
    assert run.data is not None
    s, data = run.config, run.data
    facts = {"items trained on": f"{data.trained_on or data.train:,}", "validation items": f"{data.validation:,}",
             "test items": f"{data.test:,}", "tested on": data.test_name or None,
             "baseline": run.baseline.describe() if run.baseline else None, "steps": f"{result.steps:,}",
             "seconds": f"{result.seconds:,.0f}", "seed": s.seed, "started from": s.model.source or "random weights",
             "trained on": devices.describe_device(s)}  # fmt: skip
    training = Training(command=run.command, data=data.name, real=data.real, source=data.source,
                        metrics=result.metrics, facts=facts)  # fmt: skip
    return model_card(model, str(folder), format, training)


def unsharded_model(task: Task, checkpoint: Path | None) -> Model:
    """The evaluated model on the CPU; for a divided model, a copy with the weights of the checkpoint, its adapters
    merged."""
    model = cast(Model, task.evaluated)
    if not is_divided(model):
        return cast(Model, task.finalize(model.cpu()))
    assert checkpoint is not None
    stored = StoredCheckpoint(checkpoint)
    values = {"state_dict": model_tensors(stored), "lora_scale": stored.values.get("lora_scale")}
    weights = own_weights(values, checkpoint)
    copied = whole_model(model, "cpu")
    copied.load_state_dict(weights)
    return cast(Model, task.finalize(copied))


def check_export(run: Run, model: Any) -> None:
    """Check before training that the model can be exported to the format of `export=`. Raises: ValueError."""
    format = getattr(run.config, "export", "none")
    if format == "none" or distributed.rank() != 0:
        return
    try:
        save.check_export(cast(Model, without_adapters(model)), format)
    except ValueError as error:
        is_default = getattr(model.config, "pool", "") == "mean" and not run.config.model.source
        is_default = is_default and "model.overrides.pool" not in run.given
        pool = "last" if isinstance(model.config, DecoderConfig) else "cls"
        hint = f" (the default of this recipe is pool=mean: give pool={pool})" if is_default else ""
        raise SettingsError(f"export={format}: {error}{hint}") from error


def export_model(run: Run, result: Result) -> None:
    """Export the best model to the format of `export=`, if given."""
    assert run.folder is not None
    format = getattr(run.config, "export", "none")
    if format == "none":
        return
    model, folder = load(run.folder.model), run.folder.path / format
    save.export(model, folder, format=format, readme=run_card(run, model, result, folder, format))
    console().print(f"[bold]exported  [/bold]{escape(str(folder))} (for {format})")
