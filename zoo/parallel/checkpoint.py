"""Checkpoints of sharded tensors: every process writes its part, in the background, and any number of them read it.

Saved by torch's distributed checkpoint (DCP) with a planner and a storage writer of our own. DCP's own files are
pickles, which run code when they are loaded; ours are safetensors, in the layout of DCP's `HuggingFaceStorageWriter`,
which `HuggingFaceStorageReader` reads. They are written tensor by tensor, with a checksum.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future as TorchFuture

from zoo.parallel.shard_reader import COUNT, OFFSETS, SHAPES, file_name
from zoo.parallel.shards import local, region
from zoo.utils.atomic import remove, sync
from zoo.utils.safetensors_file import Spec, file_order, write_tensors


@dataclass(frozen=True)
class Part:
    """The values of a part of a tensor, on the CPU; `shape` is that of the whole tensor."""

    values: Tensor
    offsets: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Written:
    """What was written: size in bytes and CRC-32 of each file, and the shape of each tensor."""

    files: dict[str, tuple[int, int]]
    shapes: dict[str, tuple[int, ...]]


class ShardSaver:
    """Saves checkpoints in the background, one after the other; every process has one and calls the same methods.

    Args:
        group: A gloo group of all processes, over which the threads that write agree.
    """

    def __init__(self, group: dist.ProcessGroup | None = None):
        self._group, self._copies = group, _Copies()
        self._pending: Future[Any] | None = None

    def save(self, folder: Path, tensors: Mapping[str, Tensor], finish: Callable[[Written], None]) -> None:
        """Start to write a folder; returns once the values are copied, so that training may change the tensors.

        finish: called on rank 0, in the background, once the files of all processes are on disk.
        Raises: OSError, also for the checkpoint before this one, e.g. for a full disk.
        """
        self.wait()
        found = dcp.async_save(dict(tensors), storage_writer=_Writer(folder, finish), planner=_Planner(),
                               process_group=self._group, async_stager=self._copies)  # fmt: skip
        assert isinstance(found, Future)
        self._pending = found

    def wait(self) -> None:
        """Wait until the last checkpoint is written. Raises, in every process, what writing it has raised in one."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except CheckpointException as error:
            raise next(iter(error.failures.values()))[0] from None


# --- How DCP saves ----------------------------------------------------------------------------------------------------


class _Copies(AsyncStager):
    """Copies the parts of this process to the CPU, into the memory of the last copy."""

    _synchronize_after_execute = False

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    @torch.no_grad()
    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The part of each tensor; tensors of which this process has no part are left out."""
        parts = {}
        on_gpu = False
        for name, tensor in state_dict.items():
            values, place = local(tensor.detach()), region(tensor)
            if not values.numel():
                continue
            on_gpu |= values.is_cuda
            memory = self._memory.get(name)
            if memory is None or (memory.shape, memory.dtype) != (values.shape, values.dtype):
                memory = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
            self._memory[name] = memory.copy_(values, non_blocking=True)
            parts[name] = Part(memory, tuple(p.start for p in place), tuple(tensor.shape))
        if on_gpu:
            torch.cuda.synchronize()
        return parts

    def synchronize_staging(self) -> None:
        """The copies are complete when `stage` returns."""

    def close(self) -> None:
        """Free the memory."""
        self._memory.clear()


class _Planner(dcp.DefaultSavePlanner):
    """Every process writes its own parts; a part that several have is written by one of them."""

    def set_up_planner(
        self, state_dict: dict[str, Any], storage_meta: StorageMeta | None = None, is_coordinator: bool = False
    ) -> None:
        """Take the parts as they are."""
        self.parts: dict[str, Part] = state_dict
        self.flatten_state_dict = False

    def create_local_plan(self) -> SavePlan:
        """The parts of this process."""
        self.plan = SavePlan([self._item(name, part) for name, part in self.parts.items()])
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        """The values of a part."""
        return self.parts[write_item.index.fqn].values

    @staticmethod
    def _item(name: str, part: Part) -> WriteItem:
        offsets, properties = torch.Size(part.offsets), TensorProperties.create_from_tensor(part.values)
        data = TensorWriteData(ChunkStorageMetadata(offsets, part.values.shape), properties, torch.Size(part.shape))
        return WriteItem(MetadataIndex(name, offsets), WriteItemType.SHARD, tensor_data=data)


class _Writer(StorageWriter):
    """Writes the parts of a process to one file of a new folder."""

    def __init__(self, folder: Path, finish: Callable[[Written], None]):
        self.folder, self._finish, self._is_coordinator = folder, finish, False

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between two saves."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Every path."""
        return True

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Rank 0 makes the folder, before any process gets its plan."""
        if is_coordinator:
            remove(self.folder)
            self.folder.mkdir(parents=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """The plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Number the files, of the processes that have parts to write."""
        writers = [number for number, plan in enumerate(plans) if plan.items]
        for n, number in enumerate(writers, 1):
            plans[number] = replace(plans[number], storage_data=(file_name(n), len(writers)))
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> TorchFuture[list[WriteResult]]:
        """Write the file of this process to disk."""
        done: TorchFuture[list[WriteResult]] = TorchFuture()
        done.set_result(self._write(plan, planner) if plan.items else [])
        return done

    def _write(self, plan: SavePlan, planner: SavePlanner) -> list[WriteResult]:
        items = {item.index.fqn: item for item in plan.items}
        values: dict[str, Tensor] = {name: planner.resolve_data(item) for name, item in items.items()}  # type: ignore[misc]
        specs = {name: Spec(x.dtype, tuple(x.shape)) for name, x in values.items()}
        places = {name: {"saved_offsets": list(item.index.offset or ())} for name, item in items.items()}
        sizes = {name: list(item.tensor_data.size) for name, item in items.items() if item.tensor_data}
        name, count = plan.storage_data
        metadata = {"format": "pt", "DCP_VERSION": "1.0", OFFSETS: json.dumps(places)}
        metadata |= {SHAPES: json.dumps(sizes), COUNT: str(count)}
        file = self.folder / name
        found = write_tensors(file, specs, ((name, values[name]) for name in file_order(specs)), metadata)
        sync(file)
        return [WriteResult(item.index, found[0], (file.name, found)) for item in plan.items]

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """On rank 0, once all processes have written their files."""
        files = dict(result.storage_data for own in results for result in own[:1])
        shapes = {name: tuple(x.size) for name, x in metadata.state_dict_metadata.items()}  # type: ignore[union-attr]
        sync(self.folder)
        self._finish(Written(files, shapes))


# --- The state of optimizers, by the names of the parameters ----------------------------------------------------------


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """{"<name of the parameter>.<key>": tensor of the state}. names: by the `id` of the parameters."""
    return {f"{names[id(p)]}.{key}": x for p, state in optimizer.state.items() for key, x in state.items()}


def optimizer_groups(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """The parameter groups, with names in place of parameters."""
    return [{**group, "params": [names[id(p)] for p in group["params"]]} for group in optimizer.param_groups]


def states_of(keys: Iterable[str]) -> dict[str, list[str]]:
    """{name of a parameter: keys of its state} from names as of `optimizer_tensors`."""
    found: dict[str, list[str]] = {}
    for whole in keys:
        name, _, key = whole.rpartition(".")
        found.setdefault(name, []).append(key)
    return found
