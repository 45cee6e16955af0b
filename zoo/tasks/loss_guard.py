"""Skip optimizer steps whose gradient is not finite, and stop training at the first loss that is not finite."""

import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.utils.files import write_atomic
from zoo.utils.transfer import to_host as _to_cpu

_CAUSES = (
    "Common causes: a learning rate that is too high, no gradient clipping (try gradient_clip_val=1.0), fp16 overflow "
    "(try precision=bf16), a fault of a low-precision kernel (try precision=fp32), or invalid values in the batch."
)


class NonFiniteLoss(ArithmeticError):
    """The loss became nan or infinite, at `step`; its batch is saved in `file`."""

    def __init__(self, message: str, step: int, file: Path):
        super().__init__(message)
        self.step, self.file = step, file


class NonFiniteGradient(NonFiniteLoss):
    """The gradient was nan or infinite in too many steps, though the loss was finite."""


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """One micro-batch of an optimizer step.

    Attributes:
        loss: Its mean loss, a scalar.
        count: The number of items that the mean is over, a scalar.
        batch: The batch as it came from the data loader.
        number: Its number within the step.
    """

    loss: Tensor
    count: Tensor
    batch: Mapping[str, Any]
    number: int


@dataclass(frozen=True, eq=False)
class _Pending:
    values: Tensor  # loss and gradient norm; on the CPU once `ready` has fired
    ready: Any  # torch.cuda.Event, or None if the values are on the CPU already
    step: int
    micro_batches: Sequence[MicroBatch]
    scaled: bool
    actions: list[Callable[[float], None]] = field(default_factory=list)  # to be called with the loss


class LossGuard:
    """Checks the loss and the gradient norm of every optimizer step, without synchronizing with the GPU.

    The task takes no step with a gradient that is not finite, so weights stay valid in any case; the guard counts such
    steps and saves their batches. On a CPU values are checked before the step. On a GPU they are copied to the CPU
    asynchronously and checked `behind` steps later, on all processes at the same step, and always before a checkpoint
    is written.

    Args:
        behind: Number of steps that a check lags behind on a GPU.
        limit: Number of steps that may be skipped, or 1% of all steps if that is more, before training stops.
    """

    def __init__(self, behind: int = 4, limit: int = 10):
        self.behind, self.limit = behind, limit
        self.skipped = 0  # steps without an update, since the start of the run
        self.folder = Path()
        self.rank = 0
        self._queue: deque[_Pending] = deque()
        self._loss = float("nan")  # of the last step that was checked

    def watch(
        self, loss: Tensor, norm: Tensor, step: int, micro_batches: Sequence[MicroBatch], *, scaled: bool = False
    ) -> None:
        """Queue the loss and the gradient norm (scalars) of a step; both are equal on all processes.

        With a gradient scaler (`scaled`) gradients that overflow are a matter of course: their steps are counted, but
        there is no warning, and no batch is saved.

        Raises: NonFiniteLoss or NonFiniteGradient, for this step or an earlier one.
        """
        values, ready = _to_cpu(torch.stack([loss.detach().float(), norm.detach().float()]))
        self._queue.append(_Pending(values, ready, step, micro_batches, scaled))
        while len(self._queue) > (0 if ready is None else self.behind):
            self._check_next()

    def after_check(self, action: Callable[[float], None]) -> None:
        """Call `action(loss)` once the last step watched so far is checked: now, or some steps later on a GPU.

        So metrics of a step are logged without waiting for the GPU. A step that stops training gives no call.
        """
        if self._queue:
            self._queue[-1].actions.append(action)
        else:
            action(self._loss)

    def drain(self) -> None:
        """Check all queued steps. Raises: NonFiniteLoss, NonFiniteGradient."""
        while self._queue:
            self._check_next()

    def _check_next(self) -> None:
        pending = self._queue.popleft()
        if pending.ready is not None:
            pending.ready.synchronize()
        loss, norm = pending.values.tolist()
        try:
            if not _is_finite(loss):
                self._stop(pending, loss)
            elif not _is_finite(norm):
                self._skip(pending, loss, norm)
        except NonFiniteLoss:
            self._queue.clear()
            raise
        self._loss = loss
        for action in pending.actions:
            action(loss)

    def _stop(self, pending: _Pending, loss: float) -> None:
        at = f"at step {pending.step + 1}"
        bad = [micro for micro in pending.micro_batches if not _is_finite(micro.loss.item())]
        if not bad:
            message = f"the loss of another process is {loss} {at}; that process saves its batch in {self.folder}"
            raise NonFiniteLoss(f"{message}. {_CAUSES}", pending.step, self.folder)
        file = self._save(pending, bad)
        message = f"the loss is {bad[0].loss.item()} {at}; the batch is saved in {file}"
        raise NonFiniteLoss(f"{message}. {_CAUSES}", pending.step, file)

    def _skip(self, pending: _Pending, loss: float, norm: float) -> None:
        step = pending.step + 1
        self.skipped += 1
        if self.skipped > max(self.limit, step // 100):
            file = self._save(pending, pending.micro_batches)
            raise NonFiniteGradient(
                f"the gradient was not finite in {self.skipped} of {step} steps, though the loss was ({loss:.4g} at "
                f"step {step}). No weight was changed in these steps. Batches are saved in {file.parent}, the last in "
                f"{file.name}. {_CAUSES}",
                pending.step, file,
            )  # fmt: skip
        if pending.scaled:  # a gradient scaler tries scales in this way: nothing is wrong yet
            return
        saved = ""
        if self.skipped <= self.limit:  # a long run does not fill the disk
            saved = f". The batch is saved in {self._save(pending, pending.micro_batches)}"
        if self.rank == 0:
            warnings.warn(
                f"step {step}: the norm of the gradient is {norm}, so this step is skipped: weights, optimizer and "
                f"moving average stay as they are{saved}",
                stacklevel=2,
            )

    def _file(self, pending: _Pending) -> Path:
        return self.folder / f"bad_batch_step{pending.step + 1}{f'_rank{self.rank}' if self.rank else ''}.pt"

    def _save(self, pending: _Pending, micro_batches: Sequence[MicroBatch]) -> Path:
        """Save the first of the micro-batches under `batch`, and the others, if any, under `further`."""
        saved = [
            {
                "micro": micro.number,
                "loss": micro.loss.item(),
                "batch": {key: x.cpu() if isinstance(x, Tensor) else x for key, x in micro.batch.items()},
            }
            for micro in micro_batches
        ]
        content: dict[str, Any] = {"step": pending.step, "gradient_norm": pending.values[1].item(), **saved[0]}
        if saved[1:]:
            content["further"] = saved[1:]
        file = self._file(pending)
        write_atomic(file, lambda part: torch.save(content, part))
        return file


def _is_finite(value: float) -> bool:
    return value - value == 0.0  # False for nan and both infinities
