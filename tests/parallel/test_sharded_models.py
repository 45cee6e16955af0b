"""Models that are sharded over processes: saved as one process saves them, and loaded straight into their shards."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import randomize
from ranks import ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import zoo
from zoo.parallel.fsdp import shard

TEXT = {"width": 16, "depth": 2, "heads": 2, "vocab_size": 51}


def text_model(**changes: Any) -> Any:
    return randomize(zoo.create_model("bert_tiny", head="masked_lm", seed=0, **TEXT | changes)).eval()


def two_towers() -> Any:
    image = {"name": "vit_cifar_tiny", "depth": 1, "width": 16, "heads": 2}
    text = {"name": "bert_tiny", "pool": "mean", "pooler": None, **TEXT}
    return zoo.contrast(image=image, text=text, width=8, seed=0).eval()


def fsdp(model: Any) -> Any:
    return shard(model, init_device_mesh("cpu", (torch.distributed.get_world_size(),)))


def two_dimensional(model: Any) -> Any:
    """Tensor parallel within FSDP2: both split the rows of some weights."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    for block in model.blocks:
        plan = {f"mixer.{name}": ColwiseParallel() for name in "qkv"} | {"mixer.out": RowwiseParallel()}
        plan |= {"mlp.up": ColwiseParallel(), "mlp.down": RowwiseParallel()}
        parallelize_module(block, mesh["tensor"], {name: style for name, style in plan.items()})
        fully_shard(block, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])
    return model


SHARDINGS = {"fsdp": fsdp, "fsdp x tensor": two_dimensional}
MODELS = {"text": text_model, "towers": two_towers}


def save_sharded(rank: int, model: str, sharding: str, folder: Path, size: str) -> None:
    zoo.save(SHARDINGS[sharding](MODELS[model]()), folder, max_shard_size=size)


@pytest.mark.parametrize(
    ("world", "model", "sharding", "size"),
    [(2, "text", "fsdp", "5KB"), (2, "towers", "fsdp", "50GB"), (4, "text", "fsdp x tensor", "50GB")],
)
def test_saved_as_one_process_saves_it(tmp_path: Path, world: int, model: str, sharding: str, size: str) -> None:
    ranks(world, save_sharded, model, sharding, tmp_path / "sharded", size)
    whole = zoo.save(MODELS[model](), tmp_path / "whole", max_shard_size=size)
    files = sorted(file.name for file in whole.iterdir())
    assert files == sorted(file.name for file in (tmp_path / "sharded").iterdir())
    assert ("model.safetensors.index.json" in files) == (size == "5KB")
    for file in files:
        assert (whole / file).read_bytes() == (tmp_path / "sharded" / file).read_bytes(), file
    assert zoo.verify(tmp_path / "sharded").difference == 0


def fail_together(rank: int, folder: Path) -> list[str]:
    """What each process raises where the parts of rank 1 alone, then the file of rank 0 alone, cannot be written."""
    model, found = fsdp(text_model()), []
    folder.mkdir(exist_ok=True)
    (folder / "file").touch()
    weight = model.blocks[0].mlp.up.weight
    for case in ("not finite", "a file"):
        if case == "not finite":
            kept = weight.to_local().clone()
            weight.to_local().fill_(float("nan") if rank else 0.0)
        try:
            zoo.save(model, folder / "model" if case == "not finite" else folder / "file")
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
        weight.to_local().copy_(kept)
    try:
        zoo.export(model, folder / "model")
    except ValueError as error:
        found.append(str(error))
    return found


def test_what_one_process_cannot_save_all_of_them_raise(tmp_path: Path) -> None:
    for found in ranks(2, fail_together, tmp_path / "folder"):
        assert found[0].startswith("ValueError: the tensor 'blocks.0.mlp.up.weight' is NaN or infinite in")
        assert found[1].endswith("file is a file: expected the path of a folder")
        assert "call zoo.save in all of them" in found[2]
    assert sorted(file.name for file in (tmp_path / "folder").iterdir()) == ["file"]
