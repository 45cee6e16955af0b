"""Stop training at the first loss that is not finite, and save the batch that caused it."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class NonFiniteLoss(ArithmeticError):
    """The loss became nan or infinite, at `step`; its batch is saved in `file`."""

    def __init__(self, message: str, step: int, file: Path):
        super().__init__(message)
        self.step, self.file = step, file


@dataclass
class _Pending:
    loss: Tensor  # on the CPU once `ready` has fired
    ready: Any  # torch.cuda.Event, or None if the loss is on the CPU already
    batch: Mapping[str, Any]
    step: int
    micro: int


class LossGuard:
    """Checks that every loss is finite, without synchronizing with the GPU.

    On a CPU a loss is checked before its backward pass, so the weights stay valid. On a GPU it is copied to the CPU
    asynchronously and checked at most a few steps later, and always before a checkpoint is written, so saved files stay
    valid.

    Args:
        behind: Maximum number of steps that a check may lag behind.
    """

    def __init__(self, behind: int = 4):
        self.behind = behind
        self.folder = Path()
        self._queue: deque[_Pending] = deque()

    def watch(self, loss: Tensor, batch: Mapping[str, Any], step: int, micro: int) -> None:
        """Queue a loss (a scalar). Raises: NonFiniteLoss for it or an earlier one."""
        host, ready = loss.detach(), None
        if loss.is_cuda:
            host = torch.empty((), dtype=loss.dtype, pin_memory=True)
            host.copy_(loss.detach(), non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        self._queue.append(_Pending(host, ready, batch, step, micro))
        while self._queue and (self._queue[0].ready is None or self._queue[0].ready.query()):
            self._check_next()
        while len(self._queue) > self.behind:
            self._check_next()

    def drain(self) -> None:
        """Check all queued losses. Raises: NonFiniteLoss."""
        while self._queue:
            self._check_next()

    def _check_next(self) -> None:
        pending = self._queue.popleft()
        if pending.ready is not None:
            pending.ready.synchronize()
        value = pending.loss.item()
        if value - value != 0.0:  # nan and both infinities
            self._queue.clear()
            self._stop(pending, value)

    def _stop(self, pending: _Pending, value: float) -> None:
        file = self.folder / f"bad_batch_step{pending.step + 1}.pt"
        batch = {key: entry.cpu() if isinstance(entry, Tensor) else entry for key, entry in pending.batch.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save({"step": pending.step, "micro": pending.micro, "loss": value, "batch": batch}, file)
        raise NonFiniteLoss(
            f"the loss is {value} at step {pending.step + 1}; the batch is saved in {file}. Common causes: a learning "
            f"rate that is too high, no gradient clipping (try gradient_clip_val=1.0), fp16 overflow (try "
            f"precision=bf16), or invalid values in the batch.",
            pending.step, file,
        )  # fmt: skip
