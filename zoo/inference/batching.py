"""Requests that wait at the same time are computed together: a queue, a time window, and one thread for the model.

A batch starts as soon as the thread is free. It waits for more requests only right after a batch, for at most the time
window and no longer than that batch took, and only while fewer requests are there than were there at its end. So a
client that sends one request after the other never waits, and clients that send at the same time share a forward.
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any


class QueueFullError(Exception):
    """A request that the queue has no room for. retry_after: whole seconds after which it probably has."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full, retry after {retry_after} s")
        self.retry_after = retry_after


@dataclass(eq=False)
class Pending:
    """A request in the queue. size: its number of inputs. key: only requests with equal keys are computed together."""

    request: Any
    size: int
    key: Hashable
    result: "asyncio.Future[Any]" = field(repr=False)


class Batcher:
    """Computes requests in batches, in one thread.

    Args:
        compute: Requests with equal keys -> a result for each, or the exception in the place of one. If it raises, each
            request is computed alone, so that one of them cannot make the others fail.
        window: Seconds that a batch may wait for more requests.
        max_batch_size: Inputs in a batch; a request with more of them is a batch of its own.
        max_queue: Inputs in the queue.
    """

    def __init__(
        self,
        compute: Callable[[list[Any]], Sequence[Any]],
        *,
        window: float = 0.005,
        max_batch_size: int = 32,
        max_queue: int = 1000,
    ) -> None:
        self.compute, self.window = compute, window
        self.max_batch_size, self.max_queue = max_batch_size, max_queue
        self.batches = 0
        self._queue: deque[Pending] = deque()
        self._thread = ThreadPoolExecutor(1, "model")
        self._arrived = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._expected, self._deadline = 1, 0.0  # requests that are worth waiting for, and until when
        self._seconds_per_input = 0.0

    @property
    def queued(self) -> int:
        """The number of inputs in the queue."""
        return sum(pending.size for pending in self._queue)

    @property
    def running(self) -> bool:
        """Whether requests are computed."""
        return self._loop is not None and not self._loop.done()

    async def __aenter__(self) -> "Batcher":
        self._loop = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends after the batch that is being computed; requests in the queue are canceled."""
        if self._loop is not None:
            self._loop.cancel()
        for pending in self._queue:
            pending.result.cancel()
        await asyncio.to_thread(self._thread.shutdown)

    async def submit(self, request: Any, size: int = 1, key: Hashable = None) -> Any:
        """The result of a request of `size` inputs, or its exception, raised. Canceling it takes it out of the queue.

        Raises QueueFullError at once if the queue has no room.
        """
        queued = self.queued
        if queued and queued + size > self.max_queue:
            raise QueueFullError(max(1, math.ceil(queued * self._seconds_per_input)))
        pending = Pending(request, size, key, asyncio.get_running_loop().create_future())
        self._queue.append(pending)
        self._arrived.set()
        try:
            return await pending.result
        finally:
            if pending in self._queue:
                self._queue.remove(pending)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._collect()
            if not self._queue:
                continue  # all of it was canceled meanwhile
            batch = self._next_batch()
            started = loop.time()
            results = await loop.run_in_executor(self._thread, self._results, [pending.request for pending in batch])
            ended = loop.time()
            for pending, result in zip(batch, results, strict=True):
                if pending.result.done():
                    continue  # it was canceled
                if isinstance(result, Exception):
                    pending.result.set_exception(result)
                else:
                    pending.result.set_result(result)
            self.batches += 1
            self._seconds_per_input = (ended - started) / sum(pending.size for pending in batch)
            self._expected = len(batch) + len(self._queue)
            self._deadline = ended + min(self.window, ended - started)

    async def _collect(self) -> None:
        """Wait until there are requests, and within the window for as many as there were before."""
        while not self._queue:
            self._arrived.clear()
            await self._arrived.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._deadline):
                while len(self._queue) < self._expected and self.queued < self.max_batch_size:
                    self._arrived.clear()
                    await self._arrived.wait()

    def _next_batch(self) -> list[Pending]:
        """Take the first request and those with its key out of the queue, as many as fit."""
        first = self._queue[0]
        batch, size = [first], first.size
        for pending in list(self._queue)[1:]:
            if pending.key == first.key and size + pending.size <= self.max_batch_size:
                batch.append(pending)
                size += pending.size
        for pending in batch:
            self._queue.remove(pending)
        return batch

    def _results(self, requests: list[Any]) -> list[Any]:
        """In the thread of the model: a result or an exception for each request."""
        try:
            return list(self.compute(requests))
        except Exception as error:
            if len(requests) == 1:
                return [error]
        return [self._results([request])[0] for request in requests]
