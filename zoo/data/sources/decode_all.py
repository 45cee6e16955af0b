"""Decode the files of a dataset in threads, or in processes where those are faster."""

import mmap
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from zoo.utils.errors import DataError
from zoo.utils.progress import progress

_CHUNK = 64  # items per task of a thread or process
_MOST_THREADS, _MOST_PROCESSES = 8, 16
WORTH_PROCESSES = 1.0  # seconds of decoding in one thread above which processes pay for their start


def decode_all(
    count: int, decode_one: Callable[[int], str], noun: str, on_error: str, *, processes: bool = False
) -> dict[int, str]:
    """Decode items in parallel; returns what is wrong with each broken item, by its index.

    Args:
        count: Number of items.
        decode_one: Decodes the i-th item; returns "where: why" if it is broken, else an empty string.
        noun: What an item is, for messages: `image` or `audio file`.
        on_error: `raise` raises an error for the first broken item, `skip` continues with the others, and `collect`
            also returns if all are broken, for callers that have more items than these.
        processes: Whether `decode_one` may run in other processes, because it writes to a `shared_buffer` alone. They
            are used for long work: small files take most of their time in Python, where threads take turns.

    Raises: DataError for a broken item with `raise`, or no readable item with `skip`.
    """
    broken: dict[int, str] = {}

    def decode_chunk(start: int, end: int) -> dict[int, str]:
        found: dict[int, str] = {}
        for i in range(start, end):
            if problem := decode_one(i):
                found[i] = problem.removesuffix(".")
                if on_error == "raise":
                    break
        return found

    with progress(f"reading {noun}s", count, delay=2.0) as advance:
        done, forks = 0, False
        if processes and count > _CHUNK and _can_fork():
            broken |= decode_chunk(0, 1)  # with all imports, so that the children inherit them
            start = time.perf_counter()
            broken |= decode_chunk(1, _CHUNK)
            done, per_item = _CHUNK, (time.perf_counter() - start) / (_CHUNK - 1)
            advance(done)
            forks = per_item * (count - done) > WORTH_PROCESSES
        chunks = [(start, min(start + _CHUNK, count)) for start in range(done, count, _CHUNK)]
        if not (broken and on_error == "raise") and chunks:
            with _pool(forks, decode_chunk) as pool:
                try:
                    task: Any = _run_inherited if forks else decode_chunk
                    for (start, end), found in zip(chunks, _results(pool, task, chunks)):
                        broken |= found
                        advance(end - start)
                        if broken and on_error == "raise":
                            break
                except BrokenProcessPool:
                    reason = "was ended by the system, most likely because the memory is full"
                    raise DataError(f"a process that reads {noun}s {reason}: use fewer {noun}s") from None
                finally:
                    pool.shutdown(cancel_futures=True)
    first = next(iter(broken.values()), "missing")
    if broken and on_error == "raise":
        raise DataError(f"{first}. Fix or remove it, or pass on_error=skip to skip broken {noun}s")
    if len(broken) == count and on_error != "collect":
        raise DataError(f"no {noun} can be read; the first is {first}")
    return broken


def shared_buffer(size: int) -> mmap.mmap:
    """Memory of `size` bytes that forked processes share with this one."""
    return mmap.mmap(-1, max(size, 1))


def _can_fork() -> bool:
    """Whether processes can inherit the files and the function without pickling; on macOS forks are not safe."""
    return _cores() > 1 and sys.platform == "linux" and not multiprocessing.current_process().daemon


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 4


def _pool(forks: bool, work: Callable[[int, int], Any]) -> Executor:
    if not forks:
        return ThreadPoolExecutor(min(_MOST_THREADS, _cores()))
    context = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(min(_MOST_PROCESSES, _cores()), context, _start_process, (work,))


def _results(pool: Executor, task: Callable[[int, int], Any], chunks: list[tuple[int, int]]) -> Iterator[Any]:
    """The results of a task for each chunk, in order."""
    with warnings.catch_warnings():  # all processes start when the first chunks are given to them
        warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning)
        return pool.map(task, *zip(*chunks))


def _start_process(work: Callable[[int, int], Any]) -> None:
    """In a new process: keep the work, which it inherits; the threads of torch do not survive a fork."""
    import torch

    global _inherited
    _inherited = work
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the work


def _run_inherited(start: int, end: int) -> Any:
    return _inherited(start, end)


_inherited: Callable[[int, int], Any]
