"""Overhead per step of a recipe's Trainer over a bare training loop, with its callbacks and a log row every 50 steps.

    python benchmarks/trainer_overhead.py [steps=400] [rounds=5]

The model is tiny, so that the overhead dominates. Same batches, optimizer and augmentation, one thread, process CPU
time, interleaved rounds; reported is the median of the differences. Target: 1.5 ms per step.
"""

import statistics
import tempfile
import time

import lightning as L
import torch
from _measure import machine, options, record
from torch import nn

from zoo.data.datamodule import Loader
from zoo.data.image.datamodule import ImageDataModule
from zoo.data.image.dataset import ImageDataset, ImageSplits
from zoo.data.keyed_batches import KeyedBatches
from zoo.tasks.classification import ClassificationTask
from zoo.tasks.optimizer import adamw, param_groups
from zoo.training.config import ImageSettings
from zoo.training.run import Run

OPTIONS = ("model=tiny", "batch_size=4", "log_every=50", "ema=0.99", "accelerator=cpu", "val_fraction=0.01",
           "plots=false", "checkpoint_every=200")  # fmt: skip


class Flat(nn.Module):
    """One linear layer over 8 x 8 pixels."""

    inputs = ("pixel_values",)

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, 4)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.head(pixel_values.flatten(1))


class StepTimer(L.Callback):
    """CPU time between the first and the last step, without startup and validation."""

    def __init__(self, skip: int):
        self.skip, self.start, self.spent = skip, 0.0, 0.0

    def on_train_batch_start(self, trainer: L.Trainer, *args: object) -> None:
        if trainer.global_step == self.skip:
            self.start = time.process_time()

    def on_validation_start(self, trainer: L.Trainer, *args: object) -> None:
        if trainer.global_step == trainer.max_steps:
            self.spent = time.process_time() - self.start


def images(n: int) -> ImageSplits:
    """A dataset of random images."""
    g = torch.Generator().manual_seed(0)
    whole = ImageDataset(
        torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=g), torch.arange(n) % 4, list("abcd")
    )
    return ImageSplits(whole, whole.subset(16), "noise", False, "random", (0.5,) * 3, (0.5,) * 3)


def task_of(run: Run, data: ImageDataModule) -> ClassificationTask:
    """The task of the recipe."""
    s = run.config
    return ClassificationTask(Flat(), optim=s.optim, augment=data.augment, ema=s.trainer.ema, seed=s.seed)


def bare(run: Run, data: ImageDataModule, steps: int, skip: int) -> float:
    """Seconds per step of a plain training loop: zero_grad, augment, loss, backward, clip, step."""
    task, done = task_of(run, data), 0
    optimizer = adamw(param_groups(task.model, 1e-3, 0.05))
    batches = KeyedBatches(len(data.splits.train), 4, seed=0, step=lambda: done)
    start = 0.0
    while done < steps:
        for batch in Loader(data.splits.train, batches):
            if done == skip:
                start = time.process_time()
            optimizer.zero_grad()
            task.loss_of(batch, done, 0).backward()
            nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
            optimizer.step()
            done += 1
            if done == steps:
                break
    return (time.process_time() - start) / (steps - skip)


def trained(run: Run, data: ImageDataModule, steps: int, skip: int) -> float:
    """Seconds per step of the same training in a run."""
    import zoo.training.fit as fit
    from zoo.training import save_run

    timer, make = StepTimer(skip), fit.make_trainer

    def with_timer(*arguments: object) -> L.Trainer:
        trainer = make(*arguments)  # type: ignore[arg-type]
        trainer.callbacks.insert(0, timer)
        return trainer

    fit.make_trainer, save, save_run.save_model = with_timer, save_run.save_model, lambda *a: None
    try:
        fit.fit(run, task_of(run, data), data)
    finally:
        fit.make_trainer, save_run.save_model = make, save
    return timer.spent / (steps - skip)


def main() -> None:
    """Print both times and their difference."""
    o = options(dict(steps=60, rounds=1), steps=400, rounds=5)
    steps, rounds, skip = o.steps, o.rounds, 50
    torch.set_num_threads(1)
    bare_times, run_times = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            run = Run.of("overhead", [*OPTIONS, f"steps={steps}", f"run_dir={folder}/run"], ImageSettings)
            sets = images(4 * steps + 64)
            run.open(sets)
            data = ImageDataModule(sets.with_validation(0.01, 0), 4, seed=0, augment=run.config.data.augment)
            bare_times.append(1e3 * bare(run, data, steps, skip))
            run_times.append(1e3 * trained(run, data, steps, skip))
    overhead = statistics.median(b - a for a, b in zip(bare_times, run_times, strict=True))
    record("overhead of a step", {"milliseconds": overhead})
    print("\n| | ms a step |\n|---|---|")
    for name, value in (("bare loop", statistics.median(bare_times)), ("run", statistics.median(run_times)),
                        ("overhead, median of differences", overhead)):  # fmt: skip
        print(f"| {name} | {value:.2f} |")
    print(f"CPU time, {rounds} rounds of {steps} steps; {machine()}")


if __name__ == "__main__":
    main()
