"""Recipes called as from their command lines, for the tests of all of them."""

import importlib.util
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from zoo.training.main import main
from zoo.training.metrics_file import MetricsTable

RECIPES = Path(__file__).parents[1] / "recipes"


def recipe(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def caller(settings: dict[str, type]) -> Callable[..., int]:
    """call(name, folder, *words) runs a recipe with its settings, and gives the exit status."""

    def call(name: str, folder: Path, *words: str) -> int:
        return main(recipe(name).train, settings[name], [*words, f"run_dir={folder}"])

    return call


def result(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def check_resumed_run(run: Callable[[Path], int], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between two steps in the middle of an epoch, the same command ends bit for bit as if nothing had been."""
    assert run(folder / "whole") == 0
    from zoo.training.stopping import StopOnSignalOrTime

    listen = StopOnSignalOrTime.on_train_batch_end

    def stop_at_four(self: StopOnSignalOrTime, trainer, *args) -> None:
        self._signalled = trainer.global_step == 4
        listen(self, trainer, *args)

    monkeypatch.setattr(StopOnSignalOrTime, "on_train_batch_end", stop_at_four)
    assert run(folder / "parts") == 130
    assert not multiprocessing.active_children(), "workers end with a run that is interrupted"
    monkeypatch.setattr(StopOnSignalOrTime, "on_train_batch_end", listen)
    assert run(folder / "parts") == 0
    one, other = (torch.load(folder / f / "checkpoints" / "last.ckpt", weights_only=True) for f in ("whole", "parts"))
    assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())
    rows = [[{k: v for k, v in row.items() if k not in ("seconds", "items_per_second")} for row in
             MetricsTable(folder / f / "metrics.csv").rows()] for f in ("whole", "parts")]  # fmt: skip
    assert rows[0] == rows[1] and len(rows[0]) == 6


RESUMED = ("steps=6", "validate_every=3", "checkpoint_every=1", "plots=false")
