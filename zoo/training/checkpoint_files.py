"""Checkpoint files: written atomically, verified before a run resumes from them or tests them. They cannot run code.

torch.save stores a CRC-32 of every record in the zip file, but torch.load does not compare it: a flipped bit would be
resumed from.
"""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import distributed as dist
from torch import nn

from zoo.training.run_dir import RunError
from zoo.training.sharded_checkpoints import META, MODEL, check_shapes, whole_checkpoint
from zoo.utils.distributed import in_group
from zoo.utils.files import write_atomic


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, so that a killed process or a full disk leaves no partial file; loads safely."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write to a temporary file, then rename it. Raises: OSError, e.g. for a full disk."""

        def write(part: Path) -> None:
            with open(part, "wb") as file:  # given a path, torch.save raises a RuntimeError that hides the reason
                torch.save(checkpoint, file)

        write_atomic(Path(path), write)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Load with `weights_only=True`, regardless of the argument: checkpoints cannot run code. A folder of a sharded
        run is loaded as the file of one process."""
        if Path(path).is_dir():
            return whole_checkpoint(Path(path))
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


def values_of(file: Path) -> dict[str, Any]:
    """What a checkpoint holds; of a folder, all but the tensors. Memory-mapped."""
    return torch.load(file / META if file.is_dir() else file, weights_only=True, mmap=True)


def step_of(file: Path) -> int:
    """The optimizer steps that a checkpoint has done."""
    return int(values_of(file)["global_step"])


def damage(file: Path) -> str:
    """What is damaged in a checkpoint, by the checksums of its records; empty if nothing is. Reads the whole file.

    Of a folder with the files of several processes each process reads its share, see `agreed_damage`.
    """
    try:
        with zipfile.ZipFile(file / META if file.is_dir() else file) as archive:
            record = archive.testzip()
        if record:
            return f"the checksum of its record {record!r} differs"
        step_of(file)
        if file.is_dir():
            return _damaged_shard(file)
    except Exception as error:  # a flipped bit in the headers raises almost any type
        reason = str(error).partition("\n")[0] or type(error).__name__
        return f"it is truncated or not a checkpoint ({reason})"
    return ""


def agreed_damage(file: Path) -> str:
    """`damage`, as the first process finds it that finds any; all processes call this, so that all of them end."""
    found = [damage(file)]
    if in_group():
        found = found * dist.get_world_size()
        dist.all_gather_object(found, found[0])
    return next(filter(None, found), "")


def _damaged_shard(folder: Path) -> str:
    """What is damaged in the files of a folder; the checksums are those of this process's share of them, or of all
    before the processes are connected."""
    files: dict[str, tuple[int, int]] = values_of(folder)["files"]
    rank, world = (dist.get_rank(), dist.get_world_size()) if in_group() else (0, 1)
    for number, (name, (size, checksum)) in enumerate(files.items()):
        if not (folder / name).is_file():
            return f"its file {name} is missing"
        if (found := (folder / name).stat().st_size) != size:
            return f"its file {name} has {found:,} bytes, expected {size:,}"
        if number % world == rank and crc32(folder / name) != checksum:
            return f"the checksum of its file {name} differs"
    return ""


def crc32(file: Path) -> int:
    """The CRC-32 of a file."""
    checksum = 0
    with open(file, "rb") as stream:
        while block := stream.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum


def shapes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of a task in a checkpoint."""
    values = values_of(file)
    if file.is_dir():
        return {n.removeprefix(MODEL): tuple(s) for n, s in values["shapes"].items() if n.startswith(MODEL)}
    return {name: tuple(value.shape) for name, value in values["state_dict"].items()}


def check_last(file: Path) -> None:
    """Raises: RunError for a damaged checkpoint to resume from; it names the next older one that is not damaged."""
    if not (what := agreed_damage(file)):
        return
    others = [other for other in sorted(file.parent.glob("*.ckpt")) if other != file and not agreed_damage(other)]
    restart = "use resume=never to start a new run, or another run_dir="
    if not others:
        raise RunError(f"{file} is damaged: {what}. The run has no other checkpoint: remove the file to start the run "
                       f"again from its first step, or {restart}")  # fmt: skip
    newest = max(others, key=step_of)
    raise RunError(f"{file} is damaged: {what}. The next older checkpoint that is not damaged is {newest}, of step "
                   f"{step_of(newest)}: copy it to {file.name} to resume from there, or {restart}")  # fmt: skip


def check_model(file: Path, model: nn.Module) -> None:
    """Raises: RunError for a checkpoint of another model, such as one from before an edit of the recipe."""
    there = {name[6:]: shape for name, shape in shapes_of(file).items() if name.startswith("model.")}
    here = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in here:  # FSDP2 stores scalars as vectors of one value
        if here[name] == () and there.get(name) == (1,):
            there[name] = ()
    check_shapes(file, there, here, ", although the settings are the same: the recipe or this library has changed "
                                    "since; use resume=never for a new run, or another run_dir=")  # fmt: skip


def check_best(file: Path, last: Path | None) -> None:
    """Raises: RunError for a damaged checkpoint of the best validation."""
    if not (what := agreed_damage(file)):
        return
    instead = f"the best validation after step {step_of(last)} then replaces it" if last else "the run starts again"
    raise RunError(f"{file} is damaged: {what}. Remove it to go without it ({instead}), or use resume=never to start a "
                   f"new run, or another run_dir=")  # fmt: skip
