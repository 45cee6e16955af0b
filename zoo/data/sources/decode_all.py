"""Decode the files of a dataset in threads."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from zoo.utils.errors import DataError
from zoo.utils.progress import progress

_CHUNK = 64  # items per task of a thread


def decode_all(count: int, decode_one: Callable[[int], str], noun: str, on_error: str) -> dict[int, str]:
    """Decode items in threads; returns what is wrong with each broken item, by its index.

    Args:
        count: Number of items.
        decode_one: Decodes the i-th item; returns "where: why" if it is broken, else an empty string.
        noun: What an item is, for messages: `image` or `audio file`.
        on_error: `raise` raises an error for the first broken item, `skip` continues with the others.

    Raises: DataError for a broken item with `raise`, or no readable item with `skip`.
    """
    broken: dict[int, str] = {}

    def decode_chunk(start: int) -> None:
        for i in range(start, min(start + _CHUNK, count)):
            if problem := decode_one(i):
                broken[i] = problem.removesuffix(".")
                if on_error == "raise":
                    return

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 4
    shown = progress(f"reading {noun}s", count, delay=2.0)
    with shown as advance, ThreadPoolExecutor(min(8, cores)) as pool:
        for start, _ in zip(range(0, count, _CHUNK), pool.map(decode_chunk, range(0, count, _CHUNK))):
            advance(min(_CHUNK, count - start))
            if broken and on_error == "raise":
                pool.shutdown(cancel_futures=True)
                break
    broken = dict(sorted(broken.items()))
    first = next(iter(broken.values()), "missing")
    if broken and on_error == "raise":
        raise DataError(f"broken {noun} {first}. Fix or remove it, or pass on_error=skip to skip it")
    if len(broken) == count:
        raise DataError(f"no {noun} can be read; the first is {first}")
    return broken
