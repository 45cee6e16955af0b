"""A check, when training starts, that all processes have the same settings, data and weights."""

import hashlib
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import distributed as dist
from torch import nn

from zoo.utils.distributed import in_group


class SameOnAllRanks(Callback):
    """Ends a run whose processes differ in `values`, a flat dict of what all must have, or in the initial weights.

    Processes on different machines may read different files, versions of the data or environment variables; training
    would go on, and its result would be that of none of them.

    Raises: ValueError that names what differs, and in which process.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = {name: repr(value) for name, value in values.items()}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Before models are placed."""
        if stage == "fit" and in_group() and dist.get_world_size() > 1:
            check_same(self.values | {"the initial weights": weights_digest(pl_module)})


def check_same(values: Mapping[str, str]) -> None:
    """Compare values with those of the other processes: a digest at first, and all of them if it differs."""
    digest = hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()
    digests: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(digests, digest)
    if len(set(digests)) == 1:
        return
    everything: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everything, dict(values))
    for rank, other in enumerate(everything):
        for name in sorted(other.keys() | everything[0].keys()):
            mine, theirs = everything[0].get(name, "nothing"), other.get(name, "nothing")
            if mine != theirs:
                raise ValueError(
                    f"process {rank} differs from process 0 in {name}: {theirs[:80]} there, {mine[:80]} in process 0. "
                    "Start all processes with the same command, configuration files and data"
                )


def weights_digest(module: nn.Module) -> str:
    """A digest of the sums of all parameters, with their names."""
    sums = [(name, float(value.detach().double().sum())) for name, value in module.named_parameters()]
    return hashlib.sha256(repr(sums).encode()).hexdigest()
