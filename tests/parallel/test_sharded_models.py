"""Models that are sharded over processes: saved as one process saves them, and loaded straight into their shards."""

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import randomize
from ranks import ranks
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import zoo
from zoo.checkpoints import load_shards
from zoo.parallel.fsdp import shard
from zoo.parallel.pipeline import Pipeline, make_pipeline
from zoo.parallel.place import parallelize
from zoo.parallel.plan import Plan
from zoo.parallel.shards import is_sharded, local, raise_together, whole
from zoo.utils.errors import LoadError

TEXT = {"width": 16, "depth": 2, "heads": 2, "vocab_size": 51}


def text_model(**changes: Any) -> Any:
    return randomize(zoo.create_model("bert_tiny", head="masked_lm", seed=0, **TEXT | changes)).eval()


def two_towers() -> Any:
    image = {"name": "vit_cifar_tiny", "depth": 1, "width": 16, "heads": 2}
    text = {"name": "bert_tiny", "pool": "mean", "pooler": None, **TEXT}
    return zoo.contrast(image=image, text=text, width=8, seed=0).eval()


def fsdp(model: Any) -> Any:
    return shard(model, init_device_mesh("cpu", (torch.distributed.get_world_size(),)))


def planned(model: Any) -> Any:
    """Tensor parallel within FSDP2: both divide the rows of some weights."""
    plan = Plan(shard=2, tensor=2)
    return parallelize(model, plan, plan.mesh("cpu"))


def stages(model: Any, schedule: Any = "1f1b") -> Any:
    """Tied embeddings are in the first and in the last stage; interleaved, each process has two stages."""
    return Pipeline(model, torch.distributed.group.WORLD, None, schedule=schedule).module


def sharded_stages(model: Any) -> Any:
    plan = Plan(pipeline=2, shard=2)
    return make_pipeline(model, plan, plan.mesh("cpu"), None).module


SHARDINGS = {
    "fsdp": fsdp, "plan": planned, "stages": stages, "interleaved": partial(stages, schedule="interleaved"),
    "sharded stages": sharded_stages,
}  # fmt: skip
MODELS = {"text": text_model, "towers": two_towers, "deep": partial(text_model, depth=4)}


def save_sharded(rank: int, model: str, sharding: str, folder: Path, size: str) -> None:
    zoo.save(SHARDINGS[sharding](MODELS[model]()), folder, max_shard_size=size)


@pytest.mark.parametrize(
    ("world", "model", "sharding", "size"),
    [
        (2, "text", "fsdp", "5KB"),
        (2, "towers", "fsdp", "50GB"),
        (4, "text", "plan", "50GB"),
        (2, "text", "stages", "5KB"),
        (2, "deep", "interleaved", "50GB"),
        (4, "text", "sharded stages", "50GB"),
    ],
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
    weight = model.blocks[0].mlp.up.weight.detach().to_local()
    kept = weight.clone()
    for case in ("not finite", "a file"):
        if case == "not finite":
            weight.fill_(float("nan") if rank else 0.0)
        try:
            zoo.save(model, folder / "model" if case == "not finite" else folder / "file")
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
        weight.copy_(kept)
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


class Unsendable(Exception):
    """What cannot be pickled, or made again of its arguments."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"{text} {number}")
        self.lock = threading.Lock()


def raised(rank: int, folder: Path) -> list[tuple[str, str, list[str]]]:
    """What each process raises, with its notes, of an error of process 1 alone."""
    found = []
    errors = [ValueError("odd", threading.Lock()), Unsendable(3, "odd"), LoadError("no room")]
    calls = [partial(raise_together, error if rank == 1 else None) for error in errors]
    calls.append(lambda: zoo.load(folder if rank != 1 else folder / "none", shard=fsdp))
    for call in calls:
        try:
            call()
        except Exception as error:
            found.append((type(error).__name__, str(error), getattr(error, "__notes__", [])))
    return found


def test_errors_of_one_process_end_all_of_them(tmp_path: Path) -> None:
    """Also those that cannot be sent to the others, and those before the weights are read."""
    zoo.save(text_model(), tmp_path / "model")
    other, own = ranks(2, raised, tmp_path / "model", timeout=30)
    assert [name for name, _, _ in own] == ["ValueError", "Unsendable", "LoadError", "LoadError"]
    assert [name for name, _, _ in other] == ["RuntimeError", "RuntimeError", "LoadError", "LoadError"]
    assert other[0][1].startswith("process 1 failed with ValueError: ('odd', <unlocked")
    assert other[1][1] == "process 1 failed with Unsendable: odd 3"
    for mine, theirs in zip(other[2:], own[2:], strict=True):
        assert mine[1] == theirs[1] and mine[2] == ["raised in process 1 of 2"] and not theirs[2]
    assert str(tmp_path / "model" / "none") in other[3][1]


# --- loading into shards ----------------------------------------------------------------------------------------------


def tensor_parallel(model: Any) -> Any:
    """Splits rows and columns, and leaves embeddings and norms whole."""
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for block in model.blocks:
        parallelize_module(block, mesh, {"mlp.up": ColwiseParallel(), "mlp.down": RowwiseParallel()})
    return model


SHARDINGS["tensor"] = tensor_parallel


def load_sharded(rank: int, folder: Path, sharding: str, options: dict[str, Any]) -> tuple[dict[str, Any], int, int]:
    """(the whole tensors of the model loaded into shards; bytes this process read; bytes it holds)."""
    read, read_part = [0], load_shards.read_part

    def counted(tensor: torch.Tensor, part: tuple[slice, ...]) -> torch.Tensor:
        values = read_part(tensor, part)
        read[0] += values.nbytes
        return values

    load_shards.read_part = counted
    model = zoo.load(folder, shard=SHARDINGS[sharding], **options)
    held = sum(local(x).nbytes for x in (*model.parameters(), *model.buffers()))  # tied ones once
    assert is_sharded(model.parameters()) and not model.training
    zoo.save(model, folder.with_name(f"{sharding} {len(options)}"))
    return {name: whole(x).detach() for name, x in model.state_dict().items()}, read[0], held


@pytest.mark.parametrize(("world", "sharding"), [(2, "fsdp"), (4, "plan"), (3, "tensor")])
def test_each_process_reads_its_part(tmp_path: Path, world: int, sharding: str) -> None:
    folder = zoo.save(text_model(mlp_dim=48), tmp_path / "model", max_shard_size="9KB")
    expected = zoo.load(folder).state_dict()
    size = sum(x.nbytes for name, x in expected.items() if name != "head.proj.weight")  # tied
    answers = ranks(world, load_sharded, folder, sharding, {})
    for found, read, held in answers:
        assert found.keys() == expected.keys()
        assert all(torch.equal(x.reshape(found[name].shape), found[name]) for name, x in expected.items())
        assert read == held < size
    if sharding == "fsdp":
        assert sum(read for _, read, _ in answers) == size
    for name in ("config.json", "golden.safetensors", "model.safetensors"):
        saved = zoo.save(zoo.load(folder), tmp_path / "again")
        assert (saved / name).read_bytes() == (tmp_path / f"{sharding} 0" / name).read_bytes()


def load_cases(rank: int, cases: list[tuple[Path, dict[str, Any]]]) -> list[Any]:
    """The whole tensors of each model loaded into shards, or what was raised."""
    found: list[Any] = []
    for folder, options in cases:
        try:
            model = zoo.load(folder, shard=fsdp, **options)
            found.append({name: whole(x).detach() for name, x in model.state_dict().items()})
        except ValueError as error:
            found.append(str(error))
    return found


def test_published_layouts_and_overrides(tmp_path: Path) -> None:
    """Split and transposed tensors, mixed types, a new classifier, resampled positions; values that are not finite."""
    gpt2 = zoo.create_model("gpt2", seed=0, width=16, depth=2, heads=2, vocab_size=51, max_length=12)
    zoo.export(randomize(gpt2), tmp_path / "gpt2", "transformers")
    image = {"width": 16, "depth": 1, "heads": 2, "num_classes": 3, "image_size": 16, "patch_size": 4}
    vit = randomize(zoo.create_model("vit_base_patch16_224", seed=0, **image))
    for name in ("vit", "mixed", "broken"):
        zoo.save(vit, tmp_path / name)
    vit.blocks.bfloat16()
    save_file(vit.state_dict(), tmp_path / "mixed" / "model.safetensors")
    vit.head.proj.weight.data[0, 0] = float("inf")
    save_file(vit.state_dict(), tmp_path / "broken" / "model.safetensors")
    cases = [(tmp_path / "gpt2", {}), (tmp_path / "gpt2", {"dtype": torch.bfloat16}), (tmp_path / "mixed", {}),
             (tmp_path / "vit", {"num_classes": 5, "image_size": 24})]  # fmt: skip
    expected = [zoo.load(folder, **options).state_dict() for folder, options in cases]
    for *answer, error in ranks(2, load_cases, [*cases, (tmp_path / "broken", {})]):
        for found, one in zip(answer, expected, strict=True):
            assert found.keys() == one.keys()
            assert all(torch.equal(x, found[name]) and x.dtype == found[name].dtype for name, x in one.items())
        assert "broken does not fit the model: not usable head.proj.weight (NaN or infinite in 1 of" in error
