"""Checkpoints of sharded models: written by four processes in two dimensions, read by any number in any layout."""

import errno
import json
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from ranks import ranks
from safetensors import safe_open
from safetensors.torch import save_file
from torch import distributed as dist
from torch import nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import zoo
from zoo.checkpoints.formats import native
from zoo.parallel import checkpoint
from zoo.parallel.checkpoint import ShardSaver, Written, optimizer_groups, optimizer_tensors
from zoo.parallel.fsdp import shard
from zoo.parallel.shard_reader import ShardReader, file_name
from zoo.parallel.shards import is_sharded, whole
from zoo.tasks.optimizer import adamw, param_groups
from zoo.training import fit
from zoo.training.checkpoint_files import AtomicCheckpointIO, check_last, check_model, damage
from zoo.training.run_dir import RunError
from zoo.training.sharded_checkpoints import META, MODEL, OPTIMIZER, StoredCheckpoint, load_module, load_optimizer
from zoo.utils.errors import LoadError


class Parts(nn.Module):
    """Modules by name; FSDP2 of torch 2.11 takes no ModuleDict."""

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def __getitem__(self, name: str) -> nn.Module:
        return self.get_submodule(name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Net(nn.Module):
    """Weights whose rows no number of processes divides, a scalar, a buffer, a frozen weight; names as in a task."""

    def __init__(self) -> None:
        super().__init__()
        block = Parts({"up": nn.Linear(6, 10), "down": nn.Linear(10, 6), "norm": nn.LayerNorm(6)})
        self.model = Parts({"blocks": nn.ModuleList([block]), "head": nn.Linear(6, 3)})
        self.model.scale = nn.Parameter(torch.tensor(1.5))
        self.model.register_buffer("count", torch.tensor([7, 8]))
        self.model.head.bias.requires_grad_(False)


def net(layout: str, seed: int) -> tuple[Net, torch.optim.Optimizer]:
    """A model in a layout, and its optimizer after a step."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = Net()
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    if layout != "one":
        world = torch.distributed.get_world_size()
        block = module.model["blocks"][0]
        if layout == "fsdp":
            shard(module.model, init_device_mesh("cpu", (world,)))
        else:
            mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("data", "tensor"))
            module.model.scale = nn.Parameter(module.model.scale.detach().reshape(1))
            parallelize_module(block, mesh["tensor"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
            if layout == "fsdp x tensor":
                fully_shard(module.model, mesh=mesh["data"])
            else:  # an optimizer takes DTensors or plain tensors
                for owner in module.modules():
                    for name, value in list(owner.named_parameters(recurse=False)):
                        if not isinstance(value, DTensor):
                            copies = distribute_tensor(value.detach(), mesh["tensor"], [Replicate()])
                            setattr(owner, name, nn.Parameter(copies, value.requires_grad))
    optimizer = adamw(param_groups(module, 1e-2, 0.1))
    for parameter in optimizer_parameters(optimizer):
        parameter.grad = parameter.detach() * (1 + seed)
    optimizer.step()
    return module, optimizer


def optimizer_parameters(optimizer: torch.optim.Optimizer) -> list[Any]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def contents(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The whole tensors of a model and its optimizer; scalars as vectors of one value."""
    names = {id(p): name for name, p in module.named_parameters()}
    tensors = {**module.state_dict(), **optimizer_tensors(optimizer, names)}
    return {name: whole(x.detach()).reshape(x.shape or (1,)).clone() for name, x in tensors.items()}


def save(rank: int, layout: str, folder: Path) -> dict[str, torch.Tensor]:
    """Save two checkpoints, the second over the first; the model changes as soon as the call returns."""
    module, optimizer = net(layout, 0)
    names = {id(p): name for name, p in module.named_parameters()}
    groups = optimizer_groups(optimizer, names)

    def finish(written: Written) -> None:
        values = {"global_step": 3, "files": written.files, "shapes": written.shapes, "optimizer_groups": [groups]}
        torch.save(values, folder / META)

    saver, before = ShardSaver(), {}
    for _ in range(2):
        before = contents(module, optimizer)
        tensors = {MODEL + name: x for name, x in module.state_dict().items()}
        tensors |= {OPTIMIZER.format(0) + name: x for name, x in optimizer_tensors(optimizer, names).items()}
        saver.save(folder, tensors, finish)
        optimizer.step()
    saver.wait()
    return before


def load(rank: int, layout: str, path: Path) -> dict[str, torch.Tensor]:
    module, optimizer = net(layout, 1)
    stored = StoredCheckpoint(path)
    load_module(module, stored)
    load_optimizer(optimizer, {id(p): name for name, p in module.named_parameters()}, stored, 0)
    assert is_sharded(module.parameters()) == (layout != "one")
    assert [group["lr"] for group in optimizer.param_groups] == [1e-2, 1e-2]
    return contents(module, optimizer)


def load_layouts(rank: int, path: Path) -> list[dict[str, torch.Tensor]]:
    layouts = ["fsdp", "tensor"] + ["fsdp x tensor"] * (torch.distributed.get_world_size() == 4)
    return [load(rank, layout, path) for layout in layouts]


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(x, other[name]) for name, x in one.items())


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """What four processes have saved, and what they held."""
    folder = tmp_path_factory.mktemp("stored") / "last.ckpt"
    return folder, ranks(4, save, "fsdp x tensor", folder)[0]


def test_saved_by_four_and_loaded_by_one(stored: tuple[Path, dict[str, torch.Tensor]]) -> None:
    """Without a process group, by our loading and by Lightning's, which knows of one process only."""
    folder, expected = stored
    assert len(list(folder.glob("shard-*"))) == 4 and not damage(folder)
    assert_equal(load(0, "one", folder), expected)
    module, optimizer = net("one", 1)
    found = AtomicCheckpointIO().load_checkpoint(folder)
    module.load_state_dict(found["state_dict"])
    optimizer.load_state_dict(found["optimizer_states"][0])
    assert optimizer.state[module.model.scale]["exp_avg"].shape == ()
    assert_equal(contents(module, optimizer), expected)
    check_model(folder, Net().model)


@pytest.mark.parametrize("world", [2, 4])
def test_saved_by_four_and_loaded_in_other_layouts(stored: tuple[Path, dict[str, torch.Tensor]], world: int) -> None:
    folder, expected = stored
    for found in ranks(world, load_layouts, folder):
        for one in found:
            assert_equal(one, expected)


def test_the_file_of_one_process_is_loaded_into_shards(tmp_path: Path) -> None:
    module, optimizer = net("one", 0)
    values = {"global_step": 3, "state_dict": module.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    torch.save(values, tmp_path / "last.ckpt")
    for found in ranks(2, load_layouts, tmp_path / "last.ckpt"):
        for one in found:
            assert_equal(one, contents(module, optimizer))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_files_are_those_of_torch(stored: tuple[Path, dict[str, torch.Tensor]]) -> None:
    """torch's own reader of DCP reads them."""
    folder, expected = stored
    reader = ShardReader(folder)
    state = {name: torch.zeros(shape) for name, shape in reader.shapes.items() if name.endswith("weight")}
    dcp.load(state, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    assert len(state) == 4
    assert all(torch.equal(x, expected[name.removeprefix(MODEL)]) for name, x in state.items())


def test_loading_runs_no_code(stored: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    folder, _ = stored
    for file in folder.iterdir():
        if file.name != META:
            with safe_open(file, "pt") as opened:  # nothing but JSON and numbers
                json.loads(opened.metadata()["DCP_SHARDING_INFO"])

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "made"),))

    bad = tmp_path / "bad.ckpt"
    bad.mkdir()
    torch.save({"global_step": Code(), "files": {}}, bad / META)
    with pytest.raises(pickle.UnpicklingError):
        AtomicCheckpointIO().load_checkpoint(bad)
    assert not (tmp_path / "made").exists()


def test_damage_is_found(stored: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    for number, (change, message) in enumerate({
        "flip": "the checksum of its file shard-00001", "cut": "has 100 bytes, expected", "remove": "is missing",
        "meta": "not a checkpoint",
    }.items()):  # fmt: skip
        folder = Path(shutil.copytree(stored[0], tmp_path / str(number) / "last.ckpt"))
        file = folder / "shard-00001-model-00001-of-00001.safetensors"
        data = bytearray(file.read_bytes())
        if change == "remove":
            file.unlink()
        elif change == "meta":
            (folder / META).write_bytes(b"PK")
        else:
            data[-5] ^= 1
            file.write_bytes(data if change == "flip" else data[:100])
        assert message in damage(folder)
        with pytest.raises(RunError, match="is damaged"):
            check_last(folder)
        if change == "remove":
            with pytest.raises(LoadError, match=rf"{file.name} is missing: copy all files"):
                load(0, "one", folder)


def test_a_file_of_another_writer_that_lacks_a_part(tmp_path: Path) -> None:
    """Which does not say how many files there are."""
    places = {"w": {"saved_offsets": [2]}}
    save_file({"w": torch.ones(3)}, tmp_path / file_name(2), {"DCP_SHARDING_INFO": json.dumps(places)})
    reader = ShardReader(tmp_path)
    assert reader.shapes == {"w": (5,)} and torch.equal(reader.read("w", (slice(2, 4),)), torch.ones(2))
    with pytest.raises(LoadError, match="has 3 of 5 values of 'w': a file is missing"):
        reader.read("w")


def damage_found(rank: int, folder: Path) -> str:
    """What a process raises of a file that another one has read."""
    try:
        check_last(folder)
    except RunError as error:
        return str(error)
    return ""


def test_all_processes_end_where_one_finds_damage(stored: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(stored[0], tmp_path / "last.ckpt"))
    file = folder / "shard-00002-model-00001-of-00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    assert all("the checksum of its file shard-00002" in message for message in ranks(2, damage_found, folder))


def test_the_checkpoint_of_another_model_is_named(stored: tuple[Path, dict[str, torch.Tensor]]) -> None:
    other = Net().model
    other.head = nn.Linear(6, 4)
    with pytest.raises(RunError, match=r"last.ckpt holds the weights of another model \(head.weight: \(3, 6\) there"):
        check_model(stored[0], other)
    for size in (2, 4):  # also smaller ones, of which a part would fit
        module = Net()
        module.model.head = nn.Linear(6, size)
        with pytest.raises(RunError, match=r"another model \(model.head.(weight|bias): \(3"):
            load_module(module, StoredCheckpoint(stored[0]))


def save_model(rank: int, folder: Path) -> None:
    """What the checkpoint of a recipe holds, of a model and its moving average."""
    model = zoo.create_model("vit_cifar_tiny", seed=0, width=16, depth=1, heads=2, num_classes=3)
    values = {"global_step": 3, "zoo": native.describe(model), "optimizer_groups": []}
    shard(model, init_device_mesh("cpu", (2,)))
    tensors: dict[str, torch.Tensor] = {}
    for part, factor in (("ema", 1), ("model", 2)):
        tensors |= {f"{MODEL}{part}.{name}": x * factor for name, x in model.state_dict().items()}
    saver = ShardSaver()
    saver.save(folder, tensors, lambda written: torch.save(values | {"shapes": written.shapes}, folder / META))
    saver.wait()


def test_the_model_is_loaded_from_a_checkpoint(tmp_path: Path) -> None:
    """As from the file of one process: the moving average is the model."""
    ranks(2, save_model, tmp_path / "last.ckpt")
    model = zoo.create_model("vit_cifar_tiny", seed=0, width=16, depth=1, heads=2, num_classes=3)
    found = zoo.load(tmp_path / "last.ckpt").state_dict()
    assert all(torch.equal(x, found[name]) for name, x in model.state_dict().items())


def full_disk(rank: int, folder: Path) -> list[str]:
    """What each process raises where the file of rank 1 alone cannot be written, and whether it can save again."""
    module, _ = net("fsdp", 0)
    tensors, saver, finished = dict(module.state_dict()), ShardSaver(), list[Written]()
    write = checkpoint.write_tensors

    def fails(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", "shard")

    checkpoint.write_tensors = fails if rank else write
    saver.save(folder, tensors, finished.append)
    found = []
    try:
        saver.wait()
    except OSError as error:
        found.append(str(error))
    checkpoint.write_tensors = write
    saver.save(folder, tensors, finished.append)
    saver.wait()
    return [*found, *(str(len(written.files)) for written in finished)]


def test_a_full_disk_of_one_process_is_an_error_of_all(tmp_path: Path) -> None:
    error = "[Errno 28] No space left on device: 'shard'"
    assert ranks(2, full_disk, tmp_path / "new") == [[error, "2"], [error]]


def checkpoint_that_is_tested(rank: int, folder: Path) -> list[Path]:
    """The checkpoint that a process tests, where the file of rank 0 is not visible to others yet."""

    def broadcast(value: Any) -> Any:
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    tested: list[Path] = []
    run: Any = SimpleNamespace(config=None, folder=SimpleNamespace(best=None if rank else folder, last=None))
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(broadcast=broadcast), callback_metrics={},
                                   test=lambda *args, ckpt_path, **options: tested.append(ckpt_path))  # fmt: skip
    fit.test(run, cast(Any, None), cast(Any, None), trainer)
    return tested


def test_all_processes_test_the_checkpoint_that_rank_0_has_written(
    stored: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    assert ranks(2, checkpoint_that_is_tested, stored[0], timeout=20) == [[stored[0]], [stored[0]]]
