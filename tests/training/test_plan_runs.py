"""One recipe under plans, on one, two and four processes: the same losses, metrics and weights but for rounding."""

import multiprocessing
import os
import socket
import sys
import traceback
from pathlib import Path

import pytest
import torch
from ranks import ranks
from tiny_run import checkpoint, in_child, metrics, tiny_run
from torch import nn

import zoo
from zoo.training.same_ranks import check_same

WORDS = ("steps=4", "accelerator=cpu", "mixup=0", "validate_every=2", "precision=fp32", "baseline=false")
PLANS = {
    "copies": ("plan.data=2",),
    "shards": ("plan.shard=2", "plan.checkpointing=selective"),
    "heads": ("plan.tensor=2",),
    "heads and tokens": ("plan.tensor=2", "plan.sequence=true"),
    "shards of parts": ("plan.tensor=2", "plan.shard=2"),
    "copies of parts": ("plan.tensor=2", "devices=4"),
}


def vit(seed: int) -> nn.Module:
    sizes = dict(image_size=8, patch_size=4, width=16, depth=2, heads=4, mlp_dim=32, num_classes=4)
    model = zoo.create_model("vit_cifar_tiny", seed=seed, **sizes)
    model.labels = list("abcd")
    return model


def run(folder: Path, words: tuple[str, ...]) -> None:
    tiny_run(folder, *WORDS, *words, model=vit)


def together(world: int, folder: Path, *words: str) -> list[int]:
    """`run` in several processes, as torchrun starts them; returns their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_rank, args=(rank, world, port, folder, words)) for rank in range(world)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=120)
    for child in children:
        if child.is_alive():  # it waits for one that has ended
            child.kill()
            child.join()
    return [child.exitcode or 0 for child in children]


def _rank(rank: int, world: int, port: int, folder: Path, words: tuple[str, ...]) -> None:
    numbers = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
    os.environ.update({name: str(number) for name, number in numbers.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="t")
    torch.set_num_threads(1)
    code = 0
    try:
        run(folder, words if any("devices" in word for word in words) else (*words, f"devices={world}"))
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert in_child(run, folder, ()) == 0
    return folder


RARE = ("heads", "copies of parts")  # what they add to the others is tested in tests/parallel


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.full] * (n in RARE)) for n in PLANS])
def test_a_recipe_computes_the_same(name: str, alone: Path, tmp_path: Path) -> None:
    words = PLANS[name]
    world = 4 if "parts" in name else 2
    assert together(world, tmp_path / "run", *words) == [0] * world
    assert_alike(alone, tmp_path / "run")


def compared(rank: int) -> str:
    try:
        check_same({"optim.lr": "0.001" if rank < 2 else "0.002", "seed": "0"})
    except ValueError as error:
        return str(error)
    return ""


def test_processes_with_other_settings_are_found() -> None:
    for message in ranks(3, compared):
        assert message.startswith("process 2 differs from process 0 in optim.lr: 0.002 there, 0.001 in process 0")


def assert_alike(one: Path, other: Path) -> None:
    """The same losses and metrics, and about the same weights."""
    for mine, theirs in zip(metrics(one), metrics(other), strict=True):
        for key in ("train_loss", "val_loss", "val_accuracy"):
            assert float(mine[key] or 0) == pytest.approx(float(theirs[key] or 0), rel=1e-4), key
    weights = [checkpoint(folder, "last.ckpt")["state_dict"] for folder in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key].reshape(value.shape), atol=2e-3, rtol=1e-2)
