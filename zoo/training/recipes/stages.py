"""Stages of a run: models that are trained before the main one, in folders of their own within the run folder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.models.base import Model
from zoo.training.result import DatasetInfo, Result
from zoo.training.run import Run
from zoo.training.run_dir import find_finished
from zoo.utils.console import announce
from zoo.utils.options import as_dict


def stage_run(run: Run, name: str, config: Any) -> Run:
    """A run of a stage with settings of its own, in the folder `name` within the folder of an opened run."""
    assert run.folder is not None
    trainer = replace(config.trainer, precision=run.config.trainer.precision)
    config = replace(config, run_dir=str(run.folder.path / name), trainer=trainer, seed=run.config.seed)
    return Run(run.recipe, run.command_line, config, run.given, read=run.read)


def finish_stage(stage: Run, data: Any, model: Model, train: Callable[[], Result]) -> Path:
    """The folder of the model that a stage has trained: of a finished run with these settings and this data, or of one
    that is trained, or resumed, now.

    Args:
        stage: What `stage_run` returns.
        data: The data, as in `Run.open`.
        model: The model to train.
        train: Trains it by `zoo.training.fit` once the folder is open.
    """
    values = as_dict(stage.config)
    values["data"]["name"] = DatasetInfo.of(data).name
    base = Path(stage.config.run_dir)
    if (done := find_finished(base, values, stage._fingerprint())) is not None:
        announce(f"{base.name}: trained before, {done / 'model'}")
        return done / "model"
    stage.open(data, model)
    return train().folder / "model"
