"""The queue of a server: what is computed together, what waits, what one request does to the others."""

import asyncio
import statistics
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from zoo.inference.batching import Batcher, QueueFullError


class Recorder:
    """Computes x -> 10 x, and remembers the batches; "wrong" fails, `gate` holds a batch up."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[list[Any]] = []
        self.seconds, self.gate = seconds, threading.Event()
        self.gate.set()
        self.threads: set[int] = set()

    def __call__(self, requests: list[Any]) -> list[Any]:
        self.batches.append(requests)
        self.threads.add(threading.get_ident())
        assert self.gate.wait(10)
        time.sleep(self.seconds)
        if "wrong" in requests:
            raise ZeroDivisionError("of this request")
        return [ValueError(request) if request == "refused" else 10 * request for request in requests]


def run(test: Callable[[Batcher, Recorder], Coroutine[Any, Any, Any]], compute: Recorder | None = None,
        **options: Any) -> Any:  # fmt: skip
    async def inside() -> Any:
        recorder = compute or Recorder()
        async with Batcher(recorder, **options) as batcher:
            return await asyncio.wait_for(test(batcher, recorder), 20)

    return asyncio.run(inside())


async def queued(batcher: Batcher, recorder: Recorder, *requests: Any, **options: Any) -> list[asyncio.Task[Any]]:
    """Requests that wait behind a batch which is held up; it is the first task."""
    before = len(recorder.batches)
    recorder.gate.clear()
    tasks = [asyncio.create_task(batcher.submit(0))]
    while len(recorder.batches) == before:
        await asyncio.sleep(0.001)
    tasks += [asyncio.create_task(batcher.submit(request, **options)) for request in requests]
    await asyncio.sleep(0)
    return tasks


def test_what_waits_at_the_same_time_is_one_batch_in_one_thread() -> None:
    async def test(batcher: Batcher, recorder: Recorder) -> None:
        tasks = await queued(batcher, recorder, *range(1, 40))
        assert batcher.queued == 39
        recorder.gate.set()
        assert await asyncio.gather(*tasks) == [10 * i for i in range(40)]
        assert recorder.batches == [[0], list(range(1, 33)), list(range(33, 40))]
        assert len(recorder.threads) == 1 and threading.get_ident() not in recorder.threads

    run(test)


def test_a_request_of_many_inputs_counts_as_many_and_keys_are_not_mixed() -> None:
    async def test(batcher: Batcher, recorder: Recorder) -> None:
        tasks = await queued(batcher, recorder, 1, 2, 3, size=4)
        tasks += [asyncio.create_task(batcher.submit(4, key="other")), asyncio.create_task(batcher.submit(5, 99))]
        await asyncio.sleep(0)
        recorder.gate.set()
        assert await asyncio.gather(*tasks) == [0, 10, 20, 30, 40, 50]
        assert recorder.batches == [[0], [1, 2], [3], [4], [5]]

    run(test, max_batch_size=8)


def test_one_client_after_the_other_never_waits_for_the_window() -> None:
    async def test(batcher: Batcher, recorder: Recorder) -> None:
        waits = []
        for i in range(7):
            submitted = time.monotonic()
            assert await batcher.submit(i) == 10 * i
            waits.append(time.monotonic() - submitted - 0.1)
        assert statistics.median(waits) < 0.05 and len(recorder.batches) == 7

    run(test, Recorder(seconds=0.1), window=5.0)


def test_clients_that_come_back_together_are_waited_for_within_the_window() -> None:
    async def test(batcher: Batcher, recorder: Recorder) -> None:
        async def client(number: int) -> None:
            for _ in range(5):
                await batcher.submit(number)
                await asyncio.sleep(0.002 * number)

        await asyncio.gather(*(client(number) for number in range(3)))
        assert sorted(recorder.batches[-1]) == [0, 1, 2] and len(recorder.batches) <= 7

        recorder.batches.clear()
        started = time.monotonic()
        await batcher.submit(7)  # the others are gone: no longer than the batch before took
        assert time.monotonic() - started < 0.5

    run(test, Recorder(seconds=0.05), window=5.0)


def test_a_bad_request_does_not_break_the_others() -> None:
    async def test(batcher: Batcher, recorder: Recorder) -> None:
        tasks = await queued(batcher, recorder, 1, "wrong", 2, "refused")
        recorder.gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [found[i] for i in (0, 1, 3)] == [0, 10, 20]
        assert isinstance(found[2], ZeroDivisionError) and isinstance(found[4], ValueError)
        assert await batcher.submit(3) == 30 and batcher.running

    run(test)


def test_a_full_queue_refuses_and_says_when_to_retry() -> None:
    async def test(batcher: Batcher, recorder: Recorder) -> None:
        await batcher.submit(1)
        tasks = await queued(batcher, recorder, 1, 2)
        with pytest.raises(QueueFullError) as full:
            await batcher.submit(3)
        assert full.value.retry_after >= 1
        recorder.gate.set()
        await asyncio.gather(*tasks)
        assert await batcher.submit(3, size=50) == 30  # an empty queue takes any request

    run(test, max_queue=2)


def test_a_canceled_request_leaves_the_queue() -> None:
    async def test(batcher: Batcher, recorder: Recorder) -> None:
        tasks = await queued(batcher, recorder, 1, 2)
        tasks[1].cancel()
        tasks[0].cancel()  # that is being computed
        await asyncio.sleep(0.01)
        assert batcher.queued == 1
        recorder.gate.set()
        assert await tasks[2] == 20 and recorder.batches == [[0], [2]]

    run(test)
