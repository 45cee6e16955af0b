"""A damaged checkpoint is never resumed from or tested; what a killed process left half-written is removed."""

import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import Kill, assert_same, checkpoint, in_child, status, tiny_run

from zoo.training.checkpoint_files import damage
from zoo.training.run_dir import RunError, RunFolder
from zoo.utils.atomic import write_atomic

SIX = ("steps=6", "validate_every=2", "checkpoint_every=1")


def flip(file: Path, at: int, bit: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1 << bit
    file.write_bytes(content)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in step 6: last.ckpt is of step 5, best.ckpt of step 2 or 4."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    assert in_child(tiny_run, folder, *SIX, callbacks=(Kill(5, "on_before_optimizer_step"),)) == -9
    assert checkpoint(folder, "last.ckpt")["global_step"] == 5
    return folder


@pytest.fixture
def run(killed: Path, tmp_path: Path) -> Path:
    shutil.copytree(killed, tmp_path / "run")
    return tmp_path / "run"


def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    file, rng = tmp_path / "x.ckpt", random.Random(0)
    values = {"global_step": 3, "state_dict": {"a": torch.arange(50.0), "b": torch.arange(9)}}
    torch.save(values, file)
    assert damage(file) == ""
    content = file.read_bytes()
    noticed = 0
    for at in range(len(content)):
        flip(file, at, rng.randrange(8))
        if damage(file):
            noticed += 1
        else:
            loaded = torch.load(file, weights_only=True)
            assert loaded["global_step"] == 3 and torch.equal(loaded["state_dict"]["a"], torch.arange(50.0)), at
            assert torch.equal(loaded["state_dict"]["b"], torch.arange(9)), at
        file.write_bytes(content)
    assert noticed > 300
    for length in (0, 10, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        assert damage(file)


def test_a_flipped_bit_in_the_last_checkpoint_names_the_next_older_one(run: Path, tmp_path: Path) -> None:
    last, best = run / "checkpoints" / "last.ckpt", run / "checkpoints" / "best.ckpt"
    value = checkpoint(run, "last.ckpt")["state_dict"]["model.stem.weight"]
    at = last.read_bytes().find(value.numpy().tobytes())
    assert at > 0
    flip(last, at + 100)
    assert not torch.equal(checkpoint(run, "last.ckpt")["state_dict"]["model.stem.weight"], value)  # torch is silent
    step = checkpoint(run, "best.ckpt")["global_step"]
    with pytest.raises(RunError, match=rf"last\.ckpt is damaged: .*{best}, of step {step}: copy it to last\.ckpt"):
        tiny_run(run, *SIX)
    shutil.copy(best, last)
    tiny_run(run, *SIX)
    tiny_run(tmp_path / "whole", *SIX)
    assert_same(tmp_path / "whole", run)


def test_without_a_good_checkpoint_the_message_says_how_to_start_again(run: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        file = run / "checkpoints" / name
        file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(RunError, match=r"no other checkpoint: remove the file to start the run again") as error:
        tiny_run(run, *SIX)
    assert "resume=never" in str(error.value)


def test_a_damaged_best_checkpoint_is_refused_before_the_training(run: Path) -> None:
    best = run / "checkpoints" / "best.ckpt"
    flip(best, best.stat().st_size // 2)
    with pytest.raises(RunError, match=r"best\.ckpt is damaged: .*Remove it to go without it"):
        tiny_run(run, *SIX)
    best.unlink()
    tiny_run(run, *SIX)
    assert checkpoint(run, "best.ckpt")["global_step"] == 6


def test_a_best_checkpoint_damaged_during_the_training_is_not_tested(tmp_path: Path) -> None:
    import lightning as L

    class Damage(L.Callback):
        def on_fit_end(self, *args: Any) -> None:
            file = tmp_path / "run" / "checkpoints" / "best.ckpt"
            flip(file, file.stat().st_size // 2)

    with pytest.raises(RunError, match=r"best\.ckpt is damaged"):
        tiny_run(tmp_path / "run", *SIX, callbacks=(Damage(),))
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_run_that_lost_its_best_checkpoint_tests_the_last_one(tmp_path: Path) -> None:
    """Never the random weights of a model that this start has not trained."""
    assert in_child(tiny_run, tmp_path / "run", *SIX, callbacks=(Kill(6, "on_fit_end"),)) == -9
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    shutil.copy(tmp_path / "other" / "checkpoints" / "last.ckpt", tmp_path / "other" / "checkpoints" / "best.ckpt")
    (tmp_path / "run" / "checkpoints" / "best.ckpt").unlink()
    assert tiny_run(tmp_path / "run", *SIX).metrics == tiny_run(tmp_path / "other", *SIX).metrics


def test_a_damaged_checkpoint_is_one_line_and_status_2(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(run / "checkpoints" / "last.ckpt", 3000)
    assert status(lambda: tiny_run(run, *SIX)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ") and "last.ckpt is damaged" in lines[-1]


# --- what a kill leaves behind ---


def killed_while_saving(folder: Path) -> None:
    save, calls = torch.save, []

    def half(value: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(file)
        save(value, file, *args, **kwargs)
        if len(calls) == 3:
            file.truncate(1000)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = half
    tiny_run(folder, *SIX)


def names(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}


def test_leftovers_of_a_kill_are_removed_at_the_next_start(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert in_child(killed_while_saving, folder) == -9
    left = [name for name in names(folder) if name.endswith(".part")]
    assert len(left) == 1 and left[0].startswith("checkpoints/.new.ckpt.")
    (folder / "checkpoints" / "new.ckpt").write_bytes(b"complete, but not yet renamed")
    (folder / ".model.abcd1234.part").mkdir()
    (folder / ".model.abcd1234.part" / "model.safetensors").write_bytes(b"half")
    (folder / ".config.yaml.abcd1234.part").write_bytes(b"half")
    (folder / "model").mkdir()
    (folder / "model" / ".README.md.abcd1234.part").write_bytes(b"half")
    (folder / ".notes.part").write_text("a file of the user")
    RunFolder(folder, unfinished=True).create({})
    left = names(folder)
    assert {name for name in left if name.endswith(".part")} == {".notes.part"}
    assert "checkpoints/new.ckpt" not in left and "checkpoints/last.ckpt" in left


def test_files_that_a_running_process_is_writing_are_kept(tmp_path: Path) -> None:
    """In the same folder, and in that of another run beside it."""
    mine, other = tmp_path / "run", tmp_path / "run-2"

    def write(part: Path) -> None:
        part.write_bytes(b"half")
        assert in_child(begin, mine) == 0
        assert part.exists()
        part.write_bytes(b"whole")

    for file in (mine / "notes.txt", mine / "checkpoints" / "x.bin", other / "checkpoints" / "new.ckpt"):
        write_atomic(file, write)
        assert file.read_bytes() == b"whole"


def begin(folder: Path) -> None:
    RunFolder(folder).create({})


def test_a_folder_in_use_by_another_process_is_left_as_it_is(tmp_path: Path) -> None:
    running = RunFolder(tmp_path / "run")
    running.create({})
    (running.checkpoints / "new.ckpt").write_bytes(b"about to be renamed")
    assert in_child(begin, tmp_path / "run") == 1  # the folder is locked
    assert (running.checkpoints / "new.ckpt").exists()
    running.release()
