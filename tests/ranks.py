"""Functions run by several gloo processes, forked from the test's own: a tenth of a second for two."""

import gc
import multiprocessing
import os
import pickle
import queue
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo  # here and not in each child
import torch.distributed.nn
from torch import distributed as dist


def ranks(world: int, function: Callable[..., Any], *args: Any, timeout: float = 60) -> list[Any]:
    """`function(rank, *args)` in `world` processes of one group; returns what each of them does."""
    context = multiprocessing.get_context("fork")
    answers, found = context.Queue(), {}
    with tempfile.TemporaryDirectory() as folder:
        started = [
            context.Process(target=_entry, args=(rank, world, f"{folder}/store", function, args, answers), daemon=True)
            for rank in range(world)
        ]
        for process in started:
            process.start()
        try:
            for _ in started:
                rank, fine, answer = answers.get(timeout=timeout)
                if not fine:
                    raise RuntimeError(f"rank {rank}:\n{answer}")
                found[rank] = pickle.loads(answer)
        except queue.Empty:
            raise RuntimeError(f"only ranks {sorted(found)} of {world} answered in {timeout} s") from None
        finally:
            for process in started:
                process.join(10 if len(found) == world else 0)
                if process.is_alive():  # ranks that wait for each other would wait for ever
                    process.kill()
    return [found[rank] for rank in range(world)]


def as_torchrun(world: int, function: Callable[..., Any], *args: Any, timeout: float = 120) -> list[int]:
    """`function(rank, *args)` in `world` processes that start their group themselves, as those of torchrun.

    Returns their exit codes: 0, 1 for an exception, or minus a signal.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_launched, args=(rank, world, port, function, args)) for rank in range(world)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=timeout)
        if child.is_alive():  # ranks that wait for each other would wait for ever
            for waiting in children:
                waiting.kill()
    return [child.exitcode or 0 for child in children]


def _launched(rank: int, world: int, port: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    numbers = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
    os.environ.update({name: str(number) for name, number in numbers.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="t")
    torch.set_num_threads(1)
    code = 0
    try:
        function(rank, *args)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _entry(
    rank: int, world: int, store: str, function: Callable[..., Any], args: tuple[Any, ...], answers: Any
) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # what the parent has is not searched for garbage again in each child
    try:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
        answers.put((rank, True, pickle.dumps(function(rank, *args))))  # bytes: a queue hands tensors on as open files
    except BaseException:
        answers.put((rank, False, traceback.format_exc()))
    answers.close()
    answers.join_thread()
    os._exit(0)
