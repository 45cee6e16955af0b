"""A run small enough for tests: a stand-in model with dropout, 52 random images, a folder in the test's own place."""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from zoo.data.image.dataset import ImageDataset, ImageSplits
from zoo.tasks.classification import ClassificationTask
from zoo.training.config import ImageSettings
from zoo.training.metrics_file import MetricsTable
from zoo.training.recipes.images import HeldOutImages
from zoo.training.result import DatasetInfo, Result
from zoo.training.run import Run

WORDS = (
    *("model=standin", "epochs=3", "batch_size=8", "checkpoint_every=2", "log_every=1", "ema=0.9", "lr=1e-2"),
    *("val_fraction=0.2", "accelerator=cpu", "mixup=0.2", "label_smoothing=0.1", "progress=false", "plots=false"),
)


class StandIn(nn.Module):
    """[B, 3, 8, 8] -> logits [B, 4], through dropout in two blocks named as in every model."""

    inputs = ("pixel_values",)

    def __init__(self, width: int = 16, dropout: float = 0.2) -> None:
        super().__init__()
        self.stem = nn.Linear(3 * 8 * 8, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout))
            for _ in range(2)
        )
        self.head = nn.Linear(width, 4)
        self.labels = list("abcd")

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.stem(pixel_values.flatten(1))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def standin(seed: int = 0) -> StandIn:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return StandIn()


def image_sets(n: int = 52, seed: int = 0) -> ImageSplits:
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    images = (torch.rand(n, 3, 8, 8, generator=g) * 127 + 32 * labels[:, None, None, None]).to(torch.uint8)
    half = (0.5, 0.5, 0.5)
    train, test = (
        ImageDataset(images[part], labels[part], list("abcd")) for part in (slice(0, n - 12), slice(n - 12, n))
    )
    return ImageSplits(train, test, "noise", False, "drawn by the test", half, half)


def tiny_run(folder: Path, *words: str, batches: list[Any] | None = None,
             callbacks: tuple[L.Callback, ...] = (),
             task: Callable[..., ClassificationTask] = ClassificationTask) -> Result:  # fmt: skip
    """Train the stand-in from the command line's words on; the model folder is left out, the rest is as in a recipe."""
    import zoo.training.fit as fit

    fit.save_model = lambda *_: None
    if callbacks:
        make, fit.make_trainer = fit.make_trainer, lambda *a: _with(make(*a), callbacks)
    try:
        given = {word.partition("=")[0] for word in words}
        drop = {"epochs"} if "steps" in given else set()
        base = [word for word in WORDS if word.partition("=")[0] not in given | drop]
        run = Run.of("tiny", [*base, *words, f"run_dir={folder}"], ImageSettings)
        sets = image_sets()
        run.open(DatasetInfo(sets.name, sets.real, sets.source, len(sets.train), len(sets.test)))
        s = run.settings
        data = HeldOutImages(sets, s.trainer.val_fraction, seed=s.seed, batch_size=s.data.batch_size,
                             augment=s.data.augment, num_workers=s.data.num_workers)  # fmt: skip
        made = task(standin(s.seed), optim=s.optim, label_smoothing=s.task.label_smoothing, augment=data.augment,
                    ema=s.trainer.ema, seed=s.seed)  # fmt: skip
        return fit.fit(run, made, data, steps_per_epoch=data.steps_per_epoch)
    finally:
        if callbacks:
            fit.make_trainer = make


def _with(trainer: L.Trainer, callbacks: tuple[L.Callback, ...]) -> L.Trainer:
    trainer.callbacks = [*callbacks, *trainer.callbacks]
    return trainer


class Kill(L.Callback):
    """SIGKILL to its own process, at a step, at one of the places where it hurts."""

    def __init__(self, step: int, where: str = "on_train_batch_start"):
        self.step = step
        setattr(self, where, self._kill)

    def _kill(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and not trainer.sanity_checking:
            os.kill(os.getpid(), signal.SIGKILL)


def in_child(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Run a function in a forked process; returns its exit code (-9 when it was killed)."""
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_entry, args=(fn, args, kwargs))
    child.start()
    child.join()  # with a time limit it would wait for the child's loader workers as well
    assert child.exitcode is not None
    return child.exitcode


def _entry(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    try:
        fn(*args, **kwargs)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def metrics(folder: Path) -> list[dict[str, str]]:
    rows = MetricsTable(folder / "metrics.csv").rows()
    return [{k: v for k, v in row.items() if k not in ("seconds", "items_per_second")} for row in rows]


def checkpoint(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def assert_same(one: Path, other: Path, optimizer: bool = True) -> None:
    assert metrics(one) == metrics(other)
    for name in ("last.ckpt", "best.ckpt"):
        a, b = checkpoint(one, name), checkpoint(other, name)
        assert a["global_step"] == b["global_step"]
        assert a["state_dict"].keys() == b["state_dict"].keys()
        for key, value in a["state_dict"].items():
            assert torch.equal(value, b["state_dict"][key]), (name, key)
        moments = [c["optimizer_states"][0]["state"] if optimizer else {} for c in (a, b)]
        for key, state in moments[0].items():
            for moment, value in state.items():
                assert torch.equal(value, moments[1][key][moment]), (name, key, moment)
