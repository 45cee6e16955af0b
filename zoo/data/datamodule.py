"""LightningDataModule with batches that are a function of the training step."""

from collections.abc import Callable, Generator, Mapping
from functools import partial
from typing import Any, ClassVar
from weakref import WeakSet

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.data.keyed_batches import EvalBatches, GroupedByLengthBatches, KeyedBatches, Keys
from zoo.data.splits import Splits
from zoo.data.stream_order import StreamBatches
from zoo.utils.console import announce
from zoo.utils.stopwatch import Stopwatch


def _identity(batch: Any) -> Any:
    return batch


class Loader:
    """Data loader for a batch sampler.

    It is not a `DataLoader` subclass, so that the Trainer keeps its order: with several devices, Lightning replaces the
    sampler of a DataLoader with a shuffling one.

    Args:
        data: Dataset that returns a whole batch from `__getitems__(keys)`.
        batches: The batch sampler.
        num_workers: Number of worker processes; 0 loads in the main process.
        pin_memory: Put batches into page-locked memory for faster transfer to a GPU.
        watch: Measures the time that training waits for batches.
    """

    def __init__(
        self,
        data: Dataset[Any],
        batches: KeyedBatches | EvalBatches,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        watch: Stopwatch | None = None,
    ) -> None:
        self.batches, self.watch = batches, watch or Stopwatch()
        self._new_loader = partial(
            DataLoader,
            data,
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=_identity,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
        )
        self._loader = self._new_loader()
        self._running: WeakSet[Generator[dict[str, Tensor]]] = WeakSet()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Generator[dict[str, Tensor]]:
        running = self._batches()
        self._running.add(running)
        return running

    def close(self) -> None:
        """End all iterations and their worker processes; another iteration starts new ones.

        Otherwise a trainer holds them in reference cycles, and the garbage collector, which ends them at some later
        time, waits 5 seconds for each worker.
        """
        while self._running:
            self._running.pop().close()
        self._loader = self._new_loader()

    def _batches(self) -> Generator[dict[str, Tensor]]:
        batches = iter(self._loader)
        while (batch := self.watch.time(next, batches, None)) is not None:
            yield batch


class KeyedDataModule(L.LightningDataModule):
    """Splits of a dataset in batches that are a function of (seed, step).

    Args:
        splits: Dataset splits; without a validation split, the test split validates.
        batch_size: Items per optimizer step, summed over all devices and accumulation steps. A smaller training split
            is one batch, which is announced.
        dataset: Function `dataset(part, training)` from a split to a dataset that returns a whole batch from
            `__getitems__(keys)`. Default: the split itself.
        group_by_length: Group items of similar length, `lengths` of the training dataset, into the same batch.
        seed: Seed of the order.
        num_workers: Number of data loader processes; 0 is fastest for data in memory.
        eval_batch_size: Items per evaluation batch and device. Default: twice a training micro-batch.

    Attributes:
        train, val, test: The dataset of each split.
        waiting: The time that training waits for batches.

    Raises: ValueError if the training split has fewer items than the smallest batch.
    """

    smallest_batch = 1
    items = ""  # the word for them in messages; by default that of the splits
    features = ""  # the words for what `simple_features` returns
    standardize = True  # whether a linear model scales them to mean 0 and variance 1
    penalties: tuple[float, ...] = (1.0,)  # of a ridge regression, of which validation chooses one

    def __init__(
        self,
        splits: Splits[Any],
        batch_size: int,
        *,
        dataset: Callable[[Any, bool], Any] = lambda part, training: part,
        group_by_length: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        eval_batch_size: int = 0,
    ) -> None:
        super().__init__()
        self.splits, self.batch_size, self.group_by_length = splits, batch_size, group_by_length
        self.seed, self.num_workers, self.eval_batch_size = seed, num_workers, eval_batch_size
        self.train, self.test = dataset(splits.train, True), dataset(splits.test, False)
        self.waiting = Stopwatch()
        self._loaders: WeakSet[Loader] = WeakSet()  # those that exist
        on_test = splits.validation is None or splits.validation is splits.test
        self.val = self.test if on_test else dataset(splits.validation, False)
        if self.steps_per_epoch < 1:
            self.shrink_batch()

    @property
    def classes(self) -> list[str]:
        """Class names; empty if the items have no classes."""
        return self.splits.classes

    def batches(self, **place: Any) -> KeyedBatches:
        """The batch sampler of training; `place` is passed to KeyedBatches (step, rank, world, accumulate)."""
        if (order := getattr(self.train, "stream_order", None)) is not None:
            return StreamBatches(order(self.seed), len(self.train), self.batch_size, seed=self.seed, **place)
        if self.group_by_length:
            return GroupedByLengthBatches(self.train.lengths, self.batch_size, seed=self.seed, **place)
        return KeyedBatches(len(self.train), self.batch_size, seed=self.seed, **place)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return len(self.train) // self.batch_size

    def shrink_batch(self, parts: int = 1) -> None:
        """Make a batch of all training items, or of the greatest multiple of `parts` that they fill, and announce it.

        Args:
            parts: Micro-batches per step: devices x accumulation steps.

        Raises: ValueError if they do not fill the smallest batch.
        """
        size, noun = len(self.train) // parts * parts, self.items or self.splits.train.noun
        if size < max(self.smallest_batch, parts):
            others = "" if self.val is self.test else f" ({len(self.val)} more validate)"
            least = max(self.smallest_batch, parts)
            of = f" ({parts} micro-batches: devices x accumulation steps)" if parts > 1 else ""
            raise ValueError(f"{len(self.train)} training {noun}{others} do not fill one batch of {least}{of}: add "
                             f"some")  # fmt: skip
        if size < self.batch_size:
            announce(f"batch_size {self.batch_size} -> {size}: the training set has {len(self.train)} {noun}")
            self.batch_size = size

    def sample(self, count: int = 32) -> dict[str, Any]:
        """A small raw batch, to profile with."""
        rows = torch.linspace(0, len(self.train) - 1, min(count, len(self.train), self.batch_size)).long()
        return self.train.__getitems__(Keys(rows.tolist(), 0))

    def part(self, stage: str) -> Any:
        """The split of a stage, `train`, `val` or `test`, as it was loaded."""
        if stage == "val" and self.val is not self.test:
            return self.splits.validation
        return self.splits.train if stage == "train" else self.splits.test

    def simple_features(self, stage: str, rows: Tensor) -> Any:
        """What a linear model, the baseline of a run, sees of these items of a split: texts, or float32 [n, F].

        None if there is nothing simple to see.
        """
        return None

    def train_dataloader(self) -> Loader:
        """Training batches of this rank, starting at the trainer's current step."""
        rank, world, accumulate = self._rank_and_world()
        step = lambda: self.trainer.global_step if self.trainer else 0  # noqa: E731
        batches = self.batches(step=step, rank=rank, world=world, accumulate=accumulate)
        return self._loader(self.train, batches, self.waiting)

    def val_dataloader(self) -> Loader:
        """Validation batches of this rank; every item is on exactly one rank."""
        return self._evaluation(self.val)

    def test_dataloader(self) -> Loader:
        """Test batches of this rank; every item is on exactly one rank."""
        return self._evaluation(self.test)

    def predict_dataloader(self) -> Loader:
        """Test batches of this rank; `index` holds the dataset index of each item."""
        return self._evaluation(self.test)

    def _evaluation(self, data: Any) -> Loader:
        rank, world, accumulate = self._rank_and_world()
        size = self.eval_batch_size or max(1, 2 * self.batch_size // (world * accumulate))
        return self._loader(data, EvalBatches(len(data), size, rank=rank, world=world))

    def _loader(self, data: Any, batches: KeyedBatches | EvalBatches, watch: Stopwatch | None = None) -> Loader:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        loader = Loader(data, batches, num_workers=self.num_workers, pin_memory=on_gpu, watch=watch)
        self._loaders.add(loader)
        return loader

    def teardown(self, stage: str) -> None:
        """End the worker processes of the loaders."""
        for loader in list(self._loaders):
            loader.close()

    def _rank_and_world(self) -> tuple[int, int, int]:
        """(data-parallel rank, data-parallel world size, micro-batches per step)."""
        if self.trainer is None:
            return 0, 1, 1
        sampler = self.trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        return sampler["rank"], sampler["num_replicas"], self.trainer.accumulate_grad_batches


class PreparedDataModule(KeyedDataModule):
    """Base class of data modules whose images or audio become model inputs after their transfer to the device.

    Attributes:
        prepare: Augments and normalizes a raw batch: `prepare(batch, seed=, step=, train=)`.
        kept: Names of the other entries of a raw batch that the task gets as they are.
    """

    prepare: Callable[..., dict[str, Any]]
    kept: ClassVar[tuple[str, ...]] = ()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> dict[str, Any]:
        """Convert a raw batch to the batch of the task."""
        trainer = self.trainer
        training = trainer is not None and trainer.training
        return self.ready(batch, step=trainer.global_step if trainer else 0, train=training)

    def ready(self, batch: Mapping[str, Any], *, step: int = 0, train: bool = False) -> dict[str, Any]:
        """Convert a raw batch to the batch of the task."""
        inputs = self.prepare(batch, seed=self.seed, step=step, train=train)
        return inputs | {name: batch[name] for name in self.kept if name in batch}

    def sample(self, count: int = 32) -> dict[str, Any]:
        """A small batch of the task, to profile with."""
        return self.ready(super().sample(count))
