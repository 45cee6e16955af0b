"""Sharded models (FSDP2, gloo processes): how long training waits for its checkpoints, and what a process reads.

    python benchmarks/sharded_checkpoints.py [world=4] [width=768] [depth=8] [saves=3] [steps=6] [batch=4]

saving: the seconds that a step waits for a checkpoint of the weights and the state of AdamW, which is written in the
background, every `steps` steps; their share of the time between two saves. Target: 5 %.
loading: bytes that each process reads of a folder of weights, and its peak of memory, with pages of the file, against
loading the whole model in each process and sharding it then.
70 B: bytes that each of 64 processes reads and holds of llama2_70b in bfloat16, counted without values.
"""

import ctypes
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from _measure import machine, options, record, status_bytes
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

import zoo
from zoo.checkpoints import load_shards
from zoo.parallel.checkpoint import ShardSaver, Written, optimizer_tensors
from zoo.parallel.fsdp import shard
from zoo.parallel.shards import local
from zoo.tasks.optimizer import adamw, param_groups


def in_processes(world: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What `function(rank, *args)` returns in each of `world` gloo processes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_entry, (world, folder, function, args), world, start_method="fork")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _entry(rank: int, world: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(function(rank, *args), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def on_mesh(model: Any) -> Any:
    """Shard over all processes."""
    return shard(model, init_device_mesh("cpu", (dist.get_world_size(),)))


def decoder(o: SimpleNamespace) -> Any:
    return zoo.create_model("llama_nano", seed=0, width=o.width, depth=o.depth, heads=o.width // 64,
                            kv_heads=o.width // 64, vocab_size=8192)  # fmt: skip


# --- saving -----------------------------------------------------------------------------------------------------------


def train(rank: int, o: SimpleNamespace, folder: str) -> dict[str, list[float]]:
    """Seconds that each save has waited, that it has written, and between the begins of two saves."""
    model = on_mesh(decoder(o).train())
    optimizer = adamw(param_groups(model, 1e-3, 0.1))
    names = {id(p): name for name, p in model.named_parameters()}
    ids = torch.randint(0, 8192, (o.batch, 128), generator=torch.Generator().manual_seed(rank))
    saver = ShardSaver(dist.new_group(backend="gloo"))
    found: dict[str, list[float]] = {"waits": [], "writes": [], "starts": []}
    for step in range(o.steps * o.saves + o.steps):
        model(input_ids=ids).float().logsumexp(-1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % o.steps == o.steps - 1:
            dist.barrier()
            start = time.perf_counter()
            tensors = model.state_dict() | optimizer_tensors(optimizer, names)

            def written(_: Written, start: float = start) -> None:
                found["writes"].append(time.perf_counter() - start)

            saver.save(Path(folder) / "new", tensors, written)
            found["waits"].append(time.perf_counter() - start)
            found["starts"].append(start)
    saver.wait()
    return found


def saving(o: SimpleNamespace) -> None:
    """The table of waits."""
    with tempfile.TemporaryDirectory() as folder:
        answers = in_processes(o.world, train, o, folder)
        size = sum(file.stat().st_size for file in (Path(folder) / "new").iterdir())
    starts, waits, writes = answers[0]["starts"], answers[0]["waits"], answers[0]["writes"]
    between = statistics.median(b - a for a, b in pairwise(starts[1:]))
    wait, write = statistics.median(waits[1:]), statistics.median(writes[1:])
    share = wait / between
    print(f"\nsaving {size / 1e6:,.0f} MB, {o.world} processes, every {o.steps} steps ({machine('wall')})")
    print("\n| a step waits | written after | between two saves | share that training waits |\n|---|---|---|---|")
    print(f"| {1000 * wait:.0f} ms | {1000 * write:.0f} ms | {1000 * between:.0f} ms | {100 * share:.1f} % |")
    record("waiting for a checkpoint", {"share": share, "wait": wait, "write": write, "between": between}, "wall")


# --- loading ----------------------------------------------------------------------------------------------------------


class PeakMemory:
    """The peak of the memory of this process above that at the start, in bytes."""

    def __enter__(self) -> "PeakMemory":
        ctypes.CDLL(None).malloc_trim(0)  # what the parent has freed would be used again, and not be counted
        self.start = self.peak = status_bytes("VmRSS")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.001):
            self.peak = max(self.peak, status_bytes("VmRSS"))

    @property
    def bytes(self) -> int:
        """Peak above the start."""
        return self.peak - self.start


def load(rank: int, folder: str, whole: bool) -> list[int]:
    """(bytes read, bytes held, peak of memory) of this process."""
    read, read_part = [0], load_shards.read_part

    def counted(tensor: torch.Tensor, part: tuple[slice, ...]) -> torch.Tensor:
        values = read_part(tensor, part)
        read[0] += values.nbytes
        return values

    load_shards.read_part = counted
    for _ in range(2):  # imports take memory in the first round
        model, read[0] = None, 0
        with PeakMemory() as memory:
            model = on_mesh(zoo.load(folder)) if whole else zoo.load(folder, shard=on_mesh)
    held = sum(local(x).nbytes for x in (*model.parameters(), *model.buffers()))
    size = sum(file.stat().st_size for file in Path(folder).glob("model*.safetensors"))
    return [size if whole else read[0], held, memory.bytes]


def loading(o: SimpleNamespace) -> None:
    """The table of bytes."""
    with tempfile.TemporaryDirectory() as folder:
        zoo.save(decoder(o), folder)
        print(f"\nloading {(Path(folder) / 'model.safetensors').stat().st_size / 1e6:,.0f} MB, {o.world} processes")
        print("\n| | read by a process | held | peak of memory |\n|---|---|---|---|")
        for name, whole in (("whole, then sharded", True), ("straight into shards", False)):
            read, held, peak = (max(values) for values in zip(*in_processes(o.world, load, folder, whole), strict=True))
            print(f"| {name} | {read / 1e6:,.0f} MB | {held / 1e6:,.0f} MB | {peak / 1e6:,.0f} MB |")
            record(f"loading, {name}", {"read": read, "held": held, "peak": peak}, "wall")


def without_values(name: str, world: int, depth: int) -> None:
    """Bytes of a model that a process of many holds, and so reads; no memory is taken."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    with torch.device("meta"):
        model = zoo.create_model(name, **({"depth": depth} if depth else {})).to(torch.bfloat16)
    size = sum(x.nbytes for x in model.parameters())
    held = sum(local(x).nbytes for x in on_mesh(model).parameters())
    dist.destroy_process_group()
    print(f"\n{name}: {size / 1e9:,.1f} GB in bfloat16; each of {world} processes reads and holds {held / 1e9:,.2f} GB")
    record(f"{name}, {world} processes", {"held": held, "size": size}, "wall")


def main() -> None:
    o = options(
        dict(world=2, width=64, depth=1, saves=2, steps=2, batch=1, layers=1), world=4, width=768, depth=8, saves=3,
        steps=6, batch=4, layers=0,
    )  # fmt: skip
    saving(o)
    loading(o)
    without_values("llama2_70b", 64, o.layers)


if __name__ == "__main__":
    main()
