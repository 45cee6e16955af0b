"""The ranks of a run: which one this process is, and what rank 0 decides for all."""

import json
import os
from collections.abc import Callable
from typing import Any

_DECISION = "ZOO_RUN_DECISION"  # in the environment of ranks that Lightning starts


def rank() -> int:
    """This process's rank, from the environment that torchrun, Slurm or Lightning's launcher set; 0 without."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def agree(decide: Callable[[], tuple[str, bool]]) -> tuple[str, bool]:
    """Rank 0's decision on every rank.

    Where an outer launcher (torchrun) started all ranks it is broadcast, over a process group that Lightning then
    joins; the ranks that Lightning starts itself inherit it; elsewhere (Slurm) each rank decides, which comes to the
    same as long as the decision only reads.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return _broadcast(decide() if rank() == 0 else None)
    if rank() == 0 or _DECISION not in os.environ:
        decision = decide()
        os.environ[_DECISION] = json.dumps(decision)
        return decision
    path, unfinished = json.loads(os.environ[_DECISION])
    return path, unfinished


def forget() -> None:
    """Drop what `agree` left for child processes: the next run of this process is another."""
    os.environ.pop(_DECISION, None)


def _broadcast(value: Any) -> Any:
    import torch
    from torch import distributed as dist

    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group()
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]
