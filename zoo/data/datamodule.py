"""A LightningDataModule whose batches are keyed by the step."""

from collections.abc import Iterator
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.data.keyed_batches import EvalBatches, KeyedBatches, Keys


def _as_it_is(batch: Any) -> Any:
    return batch


class Loader:
    """Iterates over the batches that a sampler names.

    It is no `DataLoader`, so a Trainer leaves its order alone: Lightning replaces a DataLoader's sampler by one that
    shuffles as soon as there are several devices.

    Args:
        data: A data set that gathers a whole batch by `__getitems__(keys)`.
        batches: The batch sampler.
        num_workers: 0 gathers in this process; more hand the gathering to a DataLoader with so many processes.
        pin_memory: Put batches into page-locked memory for a faster way to a GPU.
    """

    def __init__(
        self, data: Dataset[Any], batches: KeyedBatches | EvalBatches, *, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        self.batches = batches
        self._loader = DataLoader(
            data,
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(self._loader)


class KeyedDataModule(L.LightningDataModule):
    """Train, validation and test sets in batches that are keyed by the step.

    Args:
        train, val, test: Data sets that gather a whole batch by `__getitems__(keys)`.
        batch_size: Items per optimizer step, over all devices and accumulation steps.
        seed: Of the order.
        num_workers: Loader processes; 0 is the fastest for what lies in memory.
        eval_batch_size: Items per evaluation batch of one device; twice a training micro-batch without it.
    """

    items: ClassVar[str] = "items"  # what messages call them

    def __init__(
        self,
        train: Any,
        val: Any,
        test: Any,
        batch_size: int,
        *,
        seed: int = 0,
        num_workers: int = 0,
        eval_batch_size: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.val, self.test = train, val, test
        self.batch_size, self.seed, self.num_workers, self.eval_batch_size = (
            batch_size,
            seed,
            num_workers,
            eval_batch_size,
        )

    def batches(self, **place: Any) -> KeyedBatches:
        """The order of training; `place`: what KeyedBatches needs to know of this process."""
        return KeyedBatches(len(self.train), self.batch_size, seed=self.seed, **place)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in a pass over the training set."""
        return len(self.train) // self.batch_size

    def refuse_too_few(self) -> None:
        """Raises ValueError where the training set does not fill one batch."""
        if self.steps_per_epoch < 1:
            raise ValueError(f"{len(self.train)} training {self.items} do not fill one batch of {self.batch_size}; "
                             f"take a smaller batch_size")  # fmt: skip

    def sample(self, count: int = 32) -> dict[str, Any]:
        """A small raw batch, to measure with."""
        rows = torch.linspace(0, len(self.train) - 1, min(count, len(self.train), self.batch_size)).long()
        return self.train.__getitems__(Keys(rows.tolist(), 0))

    def train_dataloader(self) -> Loader:
        """Batches from the trainer's step on, for this rank."""
        rank, world, accumulate = self._place()
        step = lambda: self.trainer.global_step if self.trainer else 0  # noqa: E731
        return self._loader(self.train, self.batches(step=step, rank=rank, world=world, accumulate=accumulate))

    def val_dataloader(self) -> Loader:
        """The validation items, each once over all ranks."""
        return self._evaluation(self.val)

    def test_dataloader(self) -> Loader:
        """The test items, each once over all ranks."""
        return self._evaluation(self.test)

    def predict_dataloader(self) -> Loader:
        """The test items, each once over all ranks; `index` says which."""
        return self._evaluation(self.test)

    def _evaluation(self, data: Any) -> Loader:
        rank, world, accumulate = self._place()
        size = self.eval_batch_size or max(1, 2 * self.batch_size // (world * accumulate))
        return self._loader(data, EvalBatches(len(data), size, rank=rank, world=world))

    def _loader(self, data: Any, batches: KeyedBatches | EvalBatches) -> Loader:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return Loader(data, batches, num_workers=self.num_workers, pin_memory=on_gpu)

    def _place(self) -> tuple[int, int, int]:
        """Data-parallel rank and world (tensor-parallel ranks share one), and micro-batches per step."""
        if self.trainer is None:
            return 0, 1, 1
        place = self.trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        return place["rank"], place["num_replicas"], self.trainer.accumulate_grad_batches
