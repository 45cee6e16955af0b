"""Run folders: their contents, and which one a command resumes or creates. Torch-free.

runs/vit_cifar/
  config.yaml      every setting, as used
  data.sha256      SHA-256 of the data files, for `sha256sum --check`
  metrics.csv      one row per logged step
  metrics.json     the result; `finished: true` once all steps are done
  checkpoints/     last.ckpt, best.ckpt: files, or folders of a sharded run
  model/           the best model as a zoo folder
  classes.csv      precision, recall, F1 score and number of test items of each class
  confusion.csv    test items by true and predicted class
  *.png            plots
"""

import errno
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import yaml

from zoo.data.sources.dataset_cards import list_cards
from zoo.data.sources.fingerprint import Fingerprint, changes, format_fingerprint, parse_fingerprint
from zoo.training.config import FREE
from zoo.utils import renamed
from zoo.utils.atomic import find_whole, remove, remove_leftovers, write_atomic
from zoo.utils.options import flatten

_WRITTEN_AT_START = ("config.yaml", "data.sha256", "skipped.txt", ".lock")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


class RunError(ValueError):
    """A run folder cannot be used by a command."""


class DiskError(RunError, OSError):
    """The run folder cannot be written: the disk is full or read-only, or a permission is missing."""


@contextmanager
def named_disk_errors(folder: Path) -> Iterator[None]:
    """Context that raises errors of writing the run folder as DiskError, which names the path and says what to do."""
    try:
        yield
    except OSError as error:
        path = Path(error.filename2 or error.filename or folder)
        is_in_folder = path.absolute().is_relative_to(folder.absolute()) or folder.absolute().is_relative_to(path)
        if isinstance(error, DiskError) or error.errno not in (FULL | READ_ONLY if is_in_folder else FULL):
            raise
        fix = "free some space and run the same command again, which resumes from the last checkpoint"
        if error.errno in READ_ONLY:
            fix = "make it writable, or use another run_dir="
        raise DiskError(f"{path} cannot be written: {error.strerror}; {fix}") from error


@dataclass
class RunFolder:
    """One run on disk.

    Attributes:
        path: The folder.
        unfinished: Whether the folder holds an unfinished run that is resumed.
        is_new: Whether this start has created the folder and not trained yet.
    """

    path: Path
    unfinished: bool = False
    is_new: bool = False
    _lock: TextIO | None = field(default=None, repr=False)

    @property
    def checkpoints(self) -> Path:
        """Folder of `last.ckpt` and `best.ckpt`."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path | None:
        """The checkpoint to resume from, if one was written."""
        return find_whole(self.checkpoints / "last.ckpt")

    @property
    def best(self) -> Path | None:
        """The checkpoint of the best validation, if one was written."""
        return find_whole(self.checkpoints / "best.ckpt")

    @property
    def model(self) -> Path:
        """Folder of the best model, in zoo format."""
        return self.path / "model"

    @property
    def fingerprint(self) -> Fingerprint | None:
        """Fingerprint of the data; None for a run of an earlier version, which did not record it."""
        file = self.path / "data.sha256"
        return parse_fingerprint(file.read_bytes().decode(errors="surrogateescape")) if file.exists() else None

    def create(self, settings: dict[str, Any], header: str = "", fingerprint: Fingerprint | None = None) -> None:
        """Create the folder and write `config.yaml` and `data.sha256`; called by rank 0 only.

        Raises: RunError if another process is using the folder.
        """
        with named_disk_errors(self.path):
            with suppress(FileExistsError):
                self.path.mkdir(parents=True)
                self.is_new = True
            self.checkpoints.mkdir(exist_ok=True)
            self._acquire_lock()
            self._remove_leftovers()
            comment = "".join(f"# {line}\n" for line in header.splitlines())
            write_text(self.path / "config.yaml", comment + yaml.safe_dump(settings, sort_keys=False))
            if fingerprint is not None:
                write_text(self.path / "data.sha256", format_fingerprint(fingerprint))

    def write_result(self, result: dict[str, Any]) -> None:
        """Write `metrics.json`."""
        write_text(self.path / "metrics.json", json.dumps(result, indent=2) + "\n")

    def release(self) -> None:
        """Release the lock on the folder."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def discard_if_new(self) -> None:
        """Remove the folder if this start has created it, and has failed before the first step.

        A folder that holds more than a start writes, such as a checkpoint or the batch of a loss that is not finite,
        stays.
        """
        if not self.is_new or not self.path.is_dir():
            return
        others = {file.name for file in self.path.iterdir()} - {*_WRITTEN_AT_START, self.checkpoints.name}
        if others or any(self.checkpoints.glob("*")):
            return
        self.release()
        shutil.rmtree(self.path, ignore_errors=True)
        self.is_new = False

    def _remove_leftovers(self) -> None:
        """Remove what a killed start of this run left half-written; the lock on the folder is held."""
        for folder in (self.path, self.checkpoints, self.model):
            remove_leftovers(folder)
        remove(self.checkpoints / "new.ckpt")

    def _acquire_lock(self) -> None:
        """Lock the folder for the lifetime of this process; a killed process leaves no lock behind.

        This is a POSIX record lock, which forked data loader workers do not inherit, so they cannot keep it alive.
        """
        try:
            import fcntl
        except ImportError:  # not available on Windows: no locking there
            return
        handle = open(self.path / ".lock", "a")  # noqa: SIM115  (stays open while the lock is held)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.close()
            raise RunError(f"{self.path}: another process is training in this folder; use another run_dir=") from None
        self._lock = handle


def open_run(
    base: Path, settings: dict[str, Any], resume: str = "auto", fingerprint: Fingerprint | None = None
) -> RunFolder:
    """Find the folder for a run with these settings; reads only, writes nothing.

    The latest unfinished run with the same settings among `base`, `base-2`, ... is resumed, and so is one that has not
    written a checkpoint yet. If all runs are finished, the next number is a new run. All processes of a distributed run
    get the same folder until training starts.

    Args:
        base: `runs/<recipe>`, or the value of `run_dir=`.
        settings: All settings as nested dicts.
        resume: `auto`; `never` always uses a new folder; `must` never does.
        fingerprint: That of the data; None does not compare it.

    Raises: RunError if the latest run is unfinished and has other settings or other data (the message lists what
        changed), or with `must` if there is no run to resume.
    """
    if base.exists() and not base.is_dir():
        raise RunError(f"{base} is a file; use another run_dir=")
    runs = list(_existing_runs(base))
    new = next(path for path in _candidates(base) if path not in runs)
    if resume == "never":
        return RunFolder(new)
    unfinished = [path for path in runs if not is_finished(path)]
    refusals = {path: _refusal(RunFolder(path), settings, fingerprint) for path in unfinished}
    for path in reversed(unfinished):
        has_checkpoint = RunFolder(path).last is not None
        if not refusals[path] if has_checkpoint else resume != "must":
            return RunFolder(path, unfinished=True)
    if unfinished and refusals[unfinished[-1]] and (resume == "must" or unfinished[-1] == runs[-1]):
        raise RunError(refusals[unfinished[-1]])
    if resume == "must":
        raise RunError(f"resume=must: {base} holds no unfinished run")
    return RunFolder(new)


def find_finished(base: Path, settings: dict[str, Any], fingerprint: Fingerprint | None = None) -> Path | None:
    """The latest finished run with these settings and this data among `base`, `base-2`, ...; None without one."""
    for path in reversed(list(_existing_runs(base))):
        same = is_finished(path) and not differences(read_config(path), settings)
        if same and (RunFolder(path).fingerprint or {}) == (fingerprint or {}):
            return path
    return None


def is_finished(path: Path) -> bool:
    """Whether a run has completed its training and written its result.

    Raises: RunError for a damaged `metrics.json`.
    """
    file = path / "metrics.json"
    try:
        return bool(json.loads(file.read_text()).get("finished")) if file.exists() else False
    except (ValueError, AttributeError) as error:
        raise RunError(f"{file} is damaged ({error}): remove it to resume the run, or use another run_dir=") from None


def read_config(path: Path) -> dict[str, Any]:
    """The settings of a run, nested. Raises: RunError for a damaged file."""
    file = path / "config.yaml"
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise RunError(f"{file} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{file} is damaged: expected a mapping, got {type(content).__name__}")
    return content


def write_text(file: Path, text: str) -> None:
    """Replace a file atomically: a reader sees either the old text or the new one."""
    write_atomic(file, text.encode(errors="surrogateescape"))  # names of files need not be UTF-8


def _candidates(base: Path) -> Iterator[Path]:
    """`base`, `base-2`, `base-3`, ..."""
    yield base
    number = 2
    while True:
        yield base.with_name(f"{base.name}-{number}")
        number += 1


def _existing_runs(base: Path) -> Iterator[Path]:
    """The existing runs `base`, `base-2`, ... up to the first folder without a `config.yaml`."""
    for path in _candidates(base):
        if not (path / "config.yaml").exists():
            return
        yield path


def _refusal(run: RunFolder, settings: dict[str, Any], fingerprint: Fingerprint | None) -> str:
    """Why an unfinished run cannot be resumed with these settings and this data; empty if it can."""
    other = "resume=never to start a new run, or another run_dir="
    before = run.fingerprint if run.last is not None else None
    changed = differences(read_config(run.path), settings)
    if fingerprint and fingerprint == before:
        changed = {name: values for name, values in changed.items() if not _is_same_place(name, values)}
    if changed:
        listed = "; ".join(f"{name}: {old!r} there, {new!r} here" for name, (old, new) in changed.items())
        return (f"{run.path} holds an unfinished run with other settings ({listed}). Use the old values to resume it, "
                f"{other}")  # fmt: skip
    if fingerprint is not None and before is not None and (what := changes(before, fingerprint)):
        return (f"{run.path} holds an unfinished run whose data has changed since it started: {what}. Restore the data "
                f"to resume it, or use {other}")  # fmt: skip
    return ""


def _is_same_place(name: str, values: tuple[Any, Any]) -> bool:
    """Whether a setting only says where the data is, which may change as long as the data itself is equal."""
    return name in ("data.name", "data.validation", "data.test") and not set(values) & {None, *list_cards()}


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, `{path: (old value, new value)}`, except those in `FREE`."""
    before, after = _comparable(renamed.options(flatten(old))), _comparable(flatten(new))
    return {
        path: (before.get(path), after.get(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    }


def _comparable(values: dict[str, Any]) -> dict[str, Any]:
    """Flat settings without those in `FREE`, with the number of micro-batches per step instead of its factors."""
    flat = {path: value for path, value in values.items() if path not in FREE}
    if not flat.get("optim.mup"):  # settings of runs from before it do not have it
        flat = {path: value for path, value in flat.items() if not path.startswith("optim.mup")}
    factors = [flat.pop(f"trainer.{name}", 1) for name in ("devices", "num_nodes", "accumulate_grad_batches")]
    plan = {path: flat.pop(path) for path in list(flat) if path.startswith("plan.")}
    together = math.prod(plan.get(f"plan.{name}", 1) for name in ("tensor", "context", "pipeline"))
    flat["plan.mixed_precision"] = plan.get("plan.mixed_precision")
    flat.pop("trainer.strategy", None)  # a checkpoint is loaded in any layout
    micro_batches = math.prod(factors) // together  # processes that divide a model share them
    flat["trainer.devices x num_nodes x accumulate_grad_batches"] = micro_batches
    return flat
