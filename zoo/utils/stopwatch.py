"""The total time of a part of each training step; on a GPU by events, without waiting for them."""

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

_SAMPLED = 8  # one of so many calls on a GPU is timed


class Stopwatch:
    """Adds up the time of calls. On a GPU it is the mean of some of them, timed on the device, for all."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again from zero."""
        self._host = self._device = 0.0
        self._calls = self._timed = 0
        self._pending: deque[tuple[Any, Any]] = deque()

    @property
    def seconds(self) -> float:
        """Seconds of all calls so far."""
        while self._pending and self._pending[0][1].query():
            start, end = self._pending.popleft()
            self._device += start.elapsed_time(end) / 1e3
            self._timed += 1
        return self._host + (self._device / self._timed * self._calls if self._timed else 0.0)

    def time(self, function: Callable[..., Any], *args: Any, on_gpu: bool = False, **kwargs: Any) -> Any:
        """The result of `function(*args, **kwargs)`; on_gpu: whether its work is done by a CUDA device."""
        if on_gpu:
            return self._time_on_gpu(partial(function, *args, **kwargs))
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            self._host += time.perf_counter() - started

    def _time_on_gpu(self, function: Callable[[], Any]) -> Any:
        self._calls += 1
        if self._calls % _SAMPLED != 1:
            return function()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = function()
        end.record()
        self._pending.append((start, end))
        return result
