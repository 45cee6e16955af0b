"""Stop at the first loss that is no number, with the step and the batch that made it."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class NonFiniteLoss(ArithmeticError):
    """The loss became nan or infinite. `step` and `file` say where, and where its batch was saved."""

    def __init__(self, message: str, step: int, file: Path):
        super().__init__(message)
        self.step, self.file = step, file


@dataclass
class _Watched:
    loss: Tensor  # on the host once `ready` is done
    ready: Any  # torch.cuda.Event, or None when the loss is on the host already
    batch: Mapping[str, Any]
    step: int
    micro: int


class LossGuard:
    """Looks at every loss without making a GPU wait for it.

    On a CPU a loss is looked at before its backward pass, so the weights stay sound. On a GPU it travels to the host in
    the background and is looked at a few steps later at most, and always before a checkpoint is written: files stay
    sound.
    """

    def __init__(self, behind: int = 4):
        self.behind = behind
        self.folder = Path()
        self._queue: deque[_Watched] = deque()

    def watch(self, loss: Tensor, batch: Mapping[str, Any], step: int, micro: int) -> None:
        """Queue a loss (a scalar). Raises: NonFiniteLoss for it or an earlier one."""
        host, ready = loss.detach(), None
        if loss.is_cuda:
            host = torch.empty((), dtype=loss.dtype, pin_memory=True)
            host.copy_(loss.detach(), non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        self._queue.append(_Watched(host, ready, batch, step, micro))
        while self._queue and (self._queue[0].ready is None or self._queue[0].ready.query()):
            self._look()
        while len(self._queue) > self.behind:
            self._look()

    def drain(self) -> None:
        """Look at all losses so far. Raises: NonFiniteLoss."""
        while self._queue:
            self._look()

    def _look(self) -> None:
        seen = self._queue.popleft()
        if seen.ready is not None:
            seen.ready.synchronize()
        value = seen.loss.item()
        if value - value != 0.0:  # nan and both infinities
            self._queue.clear()
            self._stop(seen, value)

    def _stop(self, seen: _Watched, value: float) -> None:
        file = self.folder / f"bad_batch_step{seen.step + 1}.pt"
        batch = {key: entry.cpu() if isinstance(entry, Tensor) else entry for key, entry in seen.batch.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save({"step": seen.step, "micro": seen.micro, "loss": value, "batch": batch}, file)
        raise NonFiniteLoss(
            f"the loss is {value} at step {seen.step + 1}; its batch is saved in {file}. Usual causes: lr too high, "
            f"no clipping (gradient_clip_val=1.0), fp16 (precision=bf16 has more range), or a broken input in that batch.",
            seen.step, file,
        )  # fmt: skip
