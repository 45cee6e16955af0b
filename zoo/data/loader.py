"""Batches as a pure function of (seed, step): any run continues in the middle of an epoch, on any number of devices."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.data.augment import Augment
from zoo.data.draws import seed_for
from zoo.data.images import ImageSet, ImageSets
from zoo.data.settings import AugmentSettings


class Keys(list[int]):
    """The numbers of a batch's samples, and the epoch in which they are visited."""

    epoch: int

    def __init__(self, numbers: Sequence[int], epoch: int) -> None:
        super().__init__(numbers)
        self.epoch = epoch


class KeyedBatches:
    """Batch sampler: step s of the optimizer sees the same samples in every run of the same seed.

    A step's batch is cut into world * accumulate micro-batches; rank r at accumulation index a takes micro-batch
    a * world + r, so that two processes see what one process with two accumulation steps sees. Each iteration starts
    where `step()` stands and goes to the end of that epoch; samples that fill no whole batch wait for another epoch's
    order.

    Args:
        n: Samples in the data set.
        batch_size: Samples per optimizer step, over all ranks and accumulation steps.
        seed: Of the run.
        step: Tells the optimizer steps taken so far, e.g. `lambda: trainer.global_step`.
        rank, world: Of the data-parallel process.
        accumulate: Micro-batches of one process per optimizer step.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        seed: int,
        step: Callable[[], int],
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ) -> None:
        if not 0 <= rank < world or accumulate < 1:
            raise ValueError(f"rank={rank}, world={world}, accumulate={accumulate}: expected rank < world, at least 1")
        if batch_size < 1 or batch_size % (world * accumulate):
            raise ValueError(
                f"batch_size={batch_size} is that of one optimizer step and does not divide into "
                f"{world} devices x {accumulate} accumulation steps; take a multiple of {world * accumulate}"
            )
        if n < batch_size:
            raise ValueError(f"{n} training samples do not fill one batch of {batch_size}; take a smaller batch_size")
        self.n, self.batch_size, self.seed, self.step = n, batch_size, seed, step
        self.rank, self.world, self.accumulate = rank, world, accumulate

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch."""
        return self.n // self.batch_size

    def __len__(self) -> int:
        """Micro-batches of this rank in an epoch."""
        return self.steps * self.accumulate

    def order(self, epoch: int) -> Tensor:
        """The order in which an epoch visits the samples, int64 [n]."""
        return torch.randperm(self.n, generator=torch.Generator().manual_seed(seed_for(self.seed, epoch)))

    def __iter__(self) -> Iterator[Keys]:
        epoch, first = divmod(self.step(), self.steps)
        order = self.order(epoch)
        micro = self.batch_size // (self.world * self.accumulate)
        for step in range(first, self.steps):
            for turn in range(self.accumulate):
                start = step * self.batch_size + (turn * self.world + self.rank) * micro
                yield Keys(order[start : start + micro].tolist(), epoch)


class EvalBatches:
    """Batch sampler for evaluation: every sample once, on one rank; all ranks have equally many batches.

    Equal numbers matter where a forward pass is collective (FSDP); so batch sizes differ by one instead of the last
    batch being padded with samples that would count twice.
    """

    def __init__(self, n: int, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        if n < world:
            raise ValueError(f"{n} samples cannot be shared by {world} devices: each needs at least one")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected 1 or more")
        self.n, self.rank, self.world = n, rank, world
        most = -(-n // world)  # of any rank
        self.batches = min(-(-most // batch_size), n // world)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Keys]:
        for part in torch.arange(self.rank, self.n, self.world).tensor_split(self.batches):
            yield Keys(part.tolist(), 0)


class _Gather(Dataset[Any]):
    """Whole batches out of an ImageSet, by DataLoader's `__getitems__`."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        rows = torch.tensor(keys)
        return {
            "pixel_values": self.images.images[rows],
            "labels": self.images.labels[rows],
            "index": rows,
            "epoch": torch.tensor(keys.epoch),
        }


def _as_it_is(batch: Any) -> Any:
    return batch


class Loader:
    """Iterates over the batches that a sampler names.

    It is no `DataLoader`, so a Trainer leaves its order alone: Lightning replaces a DataLoader's sampler by one that
    shuffles as soon as there are several devices.

    Args:
        data: An ImageSet, or any data set that gathers a whole batch by `__getitems__(keys)`.
        batches: The batch sampler.
        workers: 0 gathers in this process; more hand the gathering to a DataLoader with so many processes.
        pin_memory: Put batches into page-locked memory for a faster way to a GPU.
    """

    def __init__(
        self, data: Dataset[Any], batches: KeyedBatches | EvalBatches, *, workers: int = 0, pin_memory: bool = False
    ) -> None:
        self.batches = batches
        self._loader = DataLoader(
            _Gather(data) if isinstance(data, ImageSet) else data,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(self._loader)


class KeyedModule(L.LightningDataModule):
    """Train, validation and test sets in batches that are keyed by the step.

    Args:
        train, val, test: ImageSets, or data sets that gather a whole batch by `__getitems__(keys)`.
        batch_size: Items per optimizer step, over all devices and accumulation steps.
        seed: Of the order.
        workers: Loader processes; 0 is the fastest for what lies in memory.
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
        workers: int = 0,
        eval_batch_size: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.val, self.test = train, val, test
        self.batch_size, self.seed, self.workers, self.eval_batch_size = batch_size, seed, workers, eval_batch_size

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
        return Loader(data, batches, workers=self.workers, pin_memory=on_gpu)

    def _place(self) -> tuple[int, int, int]:
        """Data-parallel rank and world (tensor-parallel ranks share one), and micro-batches per step."""
        if self.trainer is None:
            return 0, 1, 1
        place = self.trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        return place["rank"], place["num_replicas"], self.trainer.accumulate_grad_batches


class ImageModule(KeyedModule):
    """An image set as a data module. Batches: uint8 `pixel_values` [B, C, H, W], `labels`, `index` [B], `epoch`.

    Augmentation and normalisation run on whole batches where the model is: `batch = data.augment(batch, seed=..., ...)`
    is the task's first line (`zoo.tasks.Classify` has it). With `normalise=True` the module does it by itself, after
    the batch's transfer, and a task of one's own receives floats (and soft `targets`, if images are mixed).

    Args:
        sets: From `load_images`.
        batch_size: Images per optimizer step, over all devices and accumulation steps.
        seed: Of order and augmentation.
        augment: What is done to training images.
        workers: Loader processes; 0 is the fastest for small images.
        eval_batch_size: Images per evaluation batch of one device; twice a training micro-batch without it.
        normalise: Hand out augmented, normalised batches instead of raw ones.
    """

    def __init__(
        self,
        sets: ImageSets,
        batch_size: int = 128,
        *,
        seed: int = 0,
        augment: AugmentSettings | None = None,
        workers: int = 0,
        eval_batch_size: int = 0,
        normalise: bool = False,
    ) -> None:
        options = dict(seed=seed, workers=workers, eval_batch_size=eval_batch_size)
        super().__init__(sets.train, sets.test, sets.test, batch_size, **options)
        self.sets, self.normalise = sets, normalise
        self.augment = Augment(augment or AugmentSettings(), sets.mean, sets.std, len(sets.classes))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """With `normalise=True`, augment in training and normalise always; otherwise leave the batch alone."""
        if not self.normalise:
            return batch
        trainer = self.trainer
        assert trainer is not None
        ready = self.augment(batch, seed=self.seed, step=trainer.global_step, train=trainer.training)
        return ready | {"index": batch["index"]}
