"""Distributed runs: the rank of this process, and decisions that rank 0 makes for all ranks."""

import json
import os
from collections.abc import Callable
from typing import Any

_DECISION = "ZOO_RUN_DECISION"  # in the environment of ranks that Lightning starts


def rank() -> int:
    """The rank of this process, from the variables that torchrun, Slurm or Lightning set; 0 without them."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def in_group() -> bool:
    """Whether this process has a process group, so that it can exchange values with the others."""
    from torch import distributed as dist

    return dist.is_available() and dist.is_initialized()


def decide_on_rank_zero(decide: Callable[[], tuple[str, bool]]) -> tuple[str, bool]:
    """Return rank 0's decision on every rank.

    Under torchrun it is broadcast, over a process group that Lightning then uses. Ranks that Lightning starts inherit
    it through the environment. Elsewhere (Slurm) each rank decides, with the same result if `decide` only reads.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return _broadcast(decide() if rank() == 0 else None)
    if rank() == 0 or _DECISION not in os.environ:
        decision = decide()
        os.environ[_DECISION] = json.dumps(decision)
        return decision
    path, unfinished = json.loads(os.environ[_DECISION])
    return path, unfinished


def clear_decision() -> None:
    """Remove the decision from the environment, before another run in the same process."""
    os.environ.pop(_DECISION, None)


def start_group() -> None:
    """Start the process group of a process of torchrun, with names of its own for each start.

    torchrun keeps one store over all of its restarts: a process that finds the address of one that has died there,
    because the new one has not written its own yet, cannot connect.
    """
    from torch import distributed as dist
    from torch.distributed.rendezvous import rendezvous

    store, rank, world = next(iter(rendezvous("env://")))
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(store=dist.PrefixStore(f"start_{start}", store), rank=rank, world_size=world)


def _broadcast(value: Any) -> Any:
    import torch
    from torch import distributed as dist

    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        start_group()
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]
