"""Two gloo processes: the data of one process, the gradients of two accumulation steps, bit for bit. And FSDP2."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch._dynamo
from ranks import as_torchrun
from tiny_run import Kill, assert_same, image_sets, in_child, metrics, tiny_run
from tiny_run import checkpoint as stored
from torch import distributed as dist
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import zoo.training.fit  # noqa: F401  (here and not in each child)
from zoo.data.image.datamodule import ImageDataModule
from zoo.parallel import checkpoint
from zoo.training.checkpoint_files import damage, step_of
from zoo.training.run_dir import read_config
from zoo.training.sharded_checkpoints import StoredCheckpoint

UNCLIPPED = ("steps=6", "gradient_clip_val=0")


class Recorder(L.Callback):
    """Writes every rank's batches and the gradients of every step to disk."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.batches: list[torch.Tensor] = []
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, *args: Any) -> None:
        self.batches.append(batch["index"])

    def on_before_optimizer_step(self, trainer: L.Trainer, module: Any, optimizer: Any) -> None:
        named = ((n, p.grad) for n, p in module.model.named_parameters())
        self.gradients.append({n: (g.full_tensor() if hasattr(g, "full_tensor") else g).clone() for n, g in named})

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save((self.batches, self.gradients), self.folder / f"rank{trainer.global_rank}.pt")


def two(folder: Path, *words: str, kill: int | None = None, writes: int | None = None) -> list[int]:
    """`tiny_run` in two processes, as torchrun starts them; returns their exit codes.

    kill: both die at the start of this step. writes: rank 1 dies in the middle of its file of a checkpoint, after this
    many of them, and then rank 0 ends with an error.
    """

    def run(rank: int) -> None:
        callbacks: tuple[L.Callback, ...] = (Recorder(folder.with_suffix(".seen")),)
        if kill is not None:
            callbacks += (Kill(kill),)
        if rank == 1 and writes is not None:
            checkpoint.write_tensors = dies_after(writes, checkpoint.write_tensors)
        tiny_run(folder, "devices=2", *words, callbacks=callbacks)

    return as_torchrun(2, run)


def dies_after(calls: int, write: Any) -> Any:
    """`write_tensors`, which kills its process after some calls, when half of the tensors are in the file."""
    remaining = [calls]

    def called(file: Path, specs: Any, tensors: Any, metadata: Any) -> Any:
        remaining[0] -= 1

        def given() -> Any:
            for number, pair in enumerate(tensors):
                if remaining[0] < 0 and number == len(specs) // 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield pair

        return write(file, specs, given(), metadata)

    return called


def seen(folder: Path, rank: int = 0) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    return torch.load(folder.with_suffix(".seen") / f"rank{rank}.pt", weights_only=True)


@pytest.fixture(scope="module")
def accumulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process with two accumulation steps."""
    folder = tmp_path_factory.mktemp("one") / "run"
    assert (
        in_child(
            tiny_run, folder, "steps=6", "accumulate_grad_batches=2", callbacks=(Recorder(folder.with_suffix(".seen")),)
        )
        == 0
    )
    return folder


def assert_same_training(one: Path, two: Path) -> None:
    batches, gradients = seen(one)
    ranks = [seen(two, rank) for rank in range(2)]
    assert len(batches) == 12 and len(ranks[0][0]) == len(ranks[1][0]) == 6
    for i, batch in enumerate(batches):
        assert torch.equal(batch, ranks[i % 2][0][i // 2])
    for rank in range(2):
        for mine, theirs in zip(gradients, ranks[rank][1], strict=True):
            for name, gradient in mine.items():
                assert torch.equal(gradient, theirs[name]), name


def test_ddp_is_accumulation(accumulated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert two(folder, "steps=6", "strategy=ddp") == [0, 0]
    assert_same_training(accumulated, folder)
    assert_same(accumulated, folder)
    assert not (tmp_path / "run-2").exists()


def test_ddp_with_bfloat16_weights_is_accumulation(tmp_path: Path) -> None:
    one, folder, words = tmp_path / "one", tmp_path / "run", ("steps=6", "precision=bf16-master")
    record = (Recorder(one.with_suffix(".seen")),)
    assert in_child(tiny_run, one, *words, "accumulate_grad_batches=2", callbacks=record) == 0
    assert two(folder, *words, "strategy=ddp") == [0, 0]
    assert_same_training(one, folder)
    weights = [stored(path, "last.ckpt")["state_dict"] for path in (one, folder)]  # validations are in autocast,
    assert all(torch.equal(x, weights[1][name]) for name, x in weights[0].items())  # and round by the number of rows
    assert {g.dtype for step in seen(folder)[1] for g in step.values()} == {torch.float32}


def test_one_process_goes_on_where_two_were_killed(accumulated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert two(folder, "steps=6", kill=5) == [-9, -9]
    assert in_child(tiny_run, folder, "steps=6", "accumulate_grad_batches=2") == 0
    assert_same(accumulated, folder)


@pytest.fixture(scope="module")
def unclipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `accumulated`, without clipping: FSDP2 sums the norm of the gradient in another order."""
    folder = tmp_path_factory.mktemp("one") / "run"
    record = (Recorder(folder.with_suffix(".seen")),)
    assert in_child(tiny_run, folder, *UNCLIPPED, "accumulate_grad_batches=2", callbacks=record) == 0
    return folder


def test_fsdp2_is_accumulation(unclipped: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert two(folder, *UNCLIPPED, "strategy=fsdp2") == [0, 0]
    assert_same_training(unclipped, folder)
    assert_same(unclipped, folder)
    saved = StoredCheckpoint(folder / "checkpoints" / "best.ckpt")
    assert (folder / "checkpoints" / "last.ckpt" / "meta.pt").is_file() and "ema.stem.weight" in str(saved.names)


def test_a_run_changes_its_strategy(unclipped: Path, tmp_path: Path) -> None:
    """From shards to one process, and back: bit for bit, since neither rounds in another way."""
    folder = tmp_path / "run"
    assert two(folder, *UNCLIPPED, "strategy=fsdp2", kill=3) == [-9, -9]
    assert in_child(tiny_run, folder, *UNCLIPPED, "accumulate_grad_batches=2", callbacks=(Kill(5),)) == -9
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert two(folder, *UNCLIPPED, "strategy=fsdp2") == [0, 0]
    assert_same(unclipped, folder)
    assert not (tmp_path / "run-2").exists()


def test_fsdp2_clips(accumulated: Path, tmp_path: Path) -> None:
    """The norm is a sum over shards, in another order: equal but for rounding."""
    folder = tmp_path / "run"
    assert two(folder, "steps=6", "strategy=fsdp2") == [0, 0]
    for mine, theirs in zip(metrics(accumulated), metrics(folder), strict=True):
        for name in ("train_loss", "val_loss"):
            assert float(mine[name] or 0) == pytest.approx(float(theirs[name] or 0), rel=1e-5)


def test_fsdp2_goes_on_after_a_kill_in_the_middle_of_a_checkpoint(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert two(whole, "steps=5", "strategy=fsdp2", "checkpoint_every=1") == [0, 0]
    assert two(killed, "steps=5", "strategy=fsdp2", "checkpoint_every=1", writes=2)[1] == -9
    last = killed / "checkpoints" / "last.ckpt"
    assert step_of(last) == 2 and not damage(last)
    assert any((killed / "checkpoints" / "new.ckpt").iterdir())
    assert two(killed, "steps=5", "strategy=fsdp2", "checkpoint_every=1") == [0, 0]
    assert sorted(path.name for path in (killed / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert_same(whole, killed)


def restarted(folder: Path, words: tuple[str, ...], kills: list[tuple[int, int]], world: int) -> None:
    """A process of `torchrun --max-restarts`: in its start number n the rank and step of kills[n] dies."""
    torch.set_num_threads(1)
    start, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
    own = [Kill(step) for number, (who, step) in enumerate(kills) if (number, who) == (start, rank)]
    tiny_run(folder, f"devices={world}", *words, callbacks=tuple(own))


def torchrun(world: int, folder: Path, words: tuple[str, ...], kills: list[tuple[int, int]]) -> None:
    """What `torchrun --nproc-per-node world --max-restarts n` does, with forked processes: they need not import."""
    config = LaunchConfig(1, 1, world, max_restarts=len(kills), start_method="fork", monitor_interval=0.05,
                          rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", run_id="test")  # fmt: skip
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        elastic_launch(config, restarted)(folder, words, kills, world)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_killed_rank_is_restarted(unclipped: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    torchrun(2, folder, (*UNCLIPPED, "strategy=fsdp2"), [(1, 3)])
    assert_same(unclipped, folder)


@pytest.mark.full
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_ten_kills_at_random_steps(tmp_path: Path, strategy: str) -> None:
    """Four ranks, ten kills of one of them: the run ends as one that nothing has interrupted, bit for bit."""
    words = ("steps=40", f"strategy={strategy}", "checkpoint_every=1")
    draw = random.Random(0)
    steps = sorted(draw.sample(range(1, 40), 10))
    began = time.monotonic()
    torchrun(4, tmp_path / "killed", words, [(draw.randrange(4), step) for step in steps])
    assert time.monotonic() - began < 11 * 60  # no start hangs
    torchrun(4, tmp_path / "whole", words, [])
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_never_gives_all_ranks_one_new_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert two(folder, "steps=2") == [0, 0]
    assert two(folder, "steps=2", "resume=never") == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run-2", "run.seen"]
    assert read_config(tmp_path / "run-2")["trainer"]["devices"] == 2


def test_evaluation_counts_every_image_once() -> None:
    from zoo.data.keyed_batches import EvalBatches

    rows = [row for rank in range(2) for batch in EvalBatches(11, 3, rank=rank, world=2) for row in batch]
    assert sorted(rows) == list(range(11))
    assert len(ImageDataModule(image_sets(), 8).val_dataloader()) > 0
    assert not dist.is_initialized()
