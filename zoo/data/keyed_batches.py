"""Batch samplers whose batches are a pure function of (seed, step).

A run can resume in the middle of an epoch, on any number of devices. The samplers of torch and Lightning cannot: their
order is the state of a generator, and `DistributedSampler` pads or drops samples depending on the number of devices.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.utils.keyed_random import seed_for

POOL = 32  # batches per pool that is sorted by length


class Keys(list[int]):
    """Dataset indices of a batch, with the epoch they are sampled in.

    Attributes:
        epoch: The epoch.
        passes: For mixed sources, which end at different times: the pass through its source of each item.
    """

    epoch: int
    passes: list[int] | None

    def __init__(self, numbers: Sequence[int], epoch: int, passes: list[int] | None = None) -> None:
        super().__init__(numbers)
        self.epoch, self.passes = epoch, passes

    @property
    def random_epoch(self) -> int | Tensor:
        """What random numbers of the items are keyed by, beside their index: the epoch, or int64 [B], the passes."""
        return self.epoch if self.passes is None else torch.tensor(self.passes)


class KeyedBatches:
    """Batch sampler: optimizer step s gets the same samples in every run with the same seed.

    The batch of a step is split into world * accumulate micro-batches; rank r at accumulation index a takes micro-batch
    a * world + r, so that two processes see the same samples as one process with two accumulation steps. Iteration
    starts at `step()` and ends with that epoch. The last, incomplete batch of an epoch is dropped.

    Args:
        n: Number of samples in the dataset.
        batch_size: Samples per optimizer step, summed over all ranks and accumulation steps.
        seed: Seed of the order.
        step: Returns the number of optimizer steps so far, e.g. `lambda: trainer.global_step`.
        rank, world: Data-parallel rank and world size.
        accumulate: Micro-batches per process and optimizer step.
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
            raise ValueError(f"rank={rank}, world={world}, accumulate={accumulate}: expected 0 <= rank < world and "
                             f"accumulate >= 1")  # fmt: skip
        if batch_size < 1 or batch_size % (world * accumulate):
            raise ValueError(
                f"batch_size={batch_size} is per optimizer step and is not divisible by {world} devices x "
                f"{accumulate} accumulation steps; use a multiple of {world * accumulate}"
            )
        if n < batch_size:
            raise ValueError(f"{n} training samples do not fill one batch of {batch_size}; use a smaller batch_size")
        self.n, self.batch_size, self.seed, self.step = n, batch_size, seed, step
        self.rank, self.world, self.accumulate = rank, world, accumulate

    @property
    def steps(self) -> int:
        """Optimizer steps per epoch."""
        return self.n // self.batch_size

    def __len__(self) -> int:
        """Micro-batches of this rank per epoch."""
        return self.steps * self.accumulate

    def order(self, epoch: int) -> Tensor:
        """Sample order of an epoch, int64 [n]."""
        return torch.randperm(self.n, generator=torch.Generator().manual_seed(seed_for(self.seed, epoch)))

    def __iter__(self) -> Iterator[Keys]:
        epoch, first = divmod(self.step(), self.steps)
        keys = self._keys(epoch)
        micro = self.batch_size // (self.world * self.accumulate)
        for step in range(first, self.steps):
            for i in range(self.accumulate):
                start = step * self.batch_size + (i * self.world + self.rank) * micro
                yield keys(start, start + micro)

    def _keys(self, epoch: int) -> Callable[[int, int], Keys]:
        """The function of (start, stop) that returns the samples at these positions of an epoch."""
        order = self.order(epoch)
        return lambda start, stop: Keys(order[start:stop].tolist(), epoch)


class GroupedByLengthBatches(KeyedBatches):
    """KeyedBatches of items of similar length, as a pure function of (seed, epoch).

    The random order is divided into pools; each pool is sorted by length and cut into batches, which are then shuffled.

    Args:
        lengths: Length of each sample, int64 [n].
        batch_size: Samples per optimizer step.
        options: Options of KeyedBatches.
    """

    def __init__(self, lengths: Tensor, batch_size: int, **options: Any) -> None:
        super().__init__(len(lengths), batch_size, **options)
        self.lengths = lengths

    def order(self, epoch: int) -> Tensor:
        order = super().order(epoch)
        full = order[: self.steps * self.batch_size]
        pools = full.split(POOL * self.batch_size)
        batches = torch.cat([pool[self.lengths[pool].argsort(stable=True)] for pool in pools]).view(self.steps, -1)
        generator = torch.Generator().manual_seed(seed_for(self.seed, epoch, 1))
        return torch.cat([batches[torch.randperm(self.steps, generator=generator)].flatten(), order[full.numel() :]])


class EvalBatches:
    """Batch sampler for evaluation: every sample once, on one rank, with the same number of batches on all ranks.

    The forward pass of FSDP is collective and needs equal numbers of batches. Batch sizes therefore differ by one; the
    last batch is not padded with repeated samples, which would count twice.
    """

    def __init__(self, n: int, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        if n < world:
            raise ValueError(f"{n} samples cannot be split over {world} devices: each needs at least one")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected 1 or more")
        self.n, self.rank, self.world = n, rank, world
        per_rank = -(-n // world)  # rounded up
        self.batches = min(-(-per_rank // batch_size), n // world)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Keys]:
        for part in torch.arange(self.rank, self.n, self.world).tensor_split(self.batches):
            yield Keys(part.tolist(), 0)
