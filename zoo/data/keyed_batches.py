"""Batches as a pure function of (seed, step): any run continues in the middle of an epoch, on any number of devices."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from zoo.utils.keyed_random import seed_for


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
