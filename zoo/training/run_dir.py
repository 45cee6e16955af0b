"""Run folders: which one a command goes on with, which it starts, and what stands in it. Torch-free.

runs/vit_cifar/
  config.yaml      every setting, as used
  metrics.csv      one row per logged step
  metrics.json     the result; `finished: true` once all steps are done
  checkpoints/     last.ckpt, best.ckpt
  model/           the best model as a zoo folder
  *.png            pictures
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import yaml

from zoo.training.config import FREE
from zoo.utils import renamed
from zoo.utils.options import flatten


class RunError(ValueError):
    """A run folder that a command may not use."""


@dataclass
class RunFolder:
    """One run on disk.

    Attributes:
        path: The folder.
        unfinished: Whether the folder already held a run that this one goes on with.
    """

    path: Path
    unfinished: bool = False
    _lock: TextIO | None = field(default=None, repr=False)

    @property
    def checkpoints(self) -> Path:
        """Folder of `last.ckpt` and `best.ckpt`."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path | None:
        """The checkpoint to go on from, if one was written."""
        file = self.checkpoints / "last.ckpt"
        return file if file.exists() else None

    @property
    def best(self) -> Path | None:
        """The checkpoint with the best validation, if one was written."""
        file = self.checkpoints / "best.ckpt"
        return file if file.exists() else None

    @property
    def model(self) -> Path:
        """Where the zoo folder of the best model goes."""
        return self.path / "model"

    def create(self, settings: dict[str, Any], header: str = "") -> None:
        """Make the folder and write `config.yaml`; one process of a run does this.

        Raises: RunError when another process is at work in the folder.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self._hold()
        comment = "".join(f"# {line}\n" for line in header.splitlines())
        write_text(self.path / "config.yaml", comment + yaml.safe_dump(settings, sort_keys=False))

    def write_result(self, result: dict[str, Any]) -> None:
        """Write `metrics.json`."""
        write_text(self.path / "metrics.json", json.dumps(result, indent=2) + "\n")

    def release(self) -> None:
        """Let another process use the folder."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def _hold(self) -> None:
        """Lock the folder for as long as this process lives; a killed process leaves no lock behind.

        A POSIX record lock, because forked loader workers do not inherit it and so cannot outlive their parent with it.
        """
        try:
            import fcntl
        except ImportError:  # Windows has none: two processes in one folder are then the user's affair
            return
        handle = open(self.path / ".lock", "a")  # noqa: SIM115  (held open on purpose)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.close()
            raise RunError(f"{self.path}: another process is training in this folder; give another run_dir=") from None
        self._lock = handle


def open_run(base: Path, settings: dict[str, Any], resume: str = "auto") -> RunFolder:
    """The folder that a run of these settings belongs in; reads the disk and writes nothing.

    An unfinished run with equal settings is gone on with (`base`, `base-2` ...: the latest that fits), and so is one
    that never came to its first checkpoint. Where all are finished, the next number is a new run. Every process of a
    distributed run may ask: until training starts, the answer stays the same.

    Args:
        base: `runs/<recipe>` or what `run_dir=` says.
        settings: All settings as nested dicts.
        resume: `auto`; `never` takes a new folder in any case; `must` never does.

    Raises: RunError when the latest run is unfinished and has other settings (it names them), or with `must` when
        there is nothing to go on with.
    """
    if base.exists() and not base.is_dir():
        raise RunError(f"{base} is a file; give another run_dir=")
    runs = list(_numbered(base))
    fresh = next(path for path in _names(base) if path not in runs)
    if resume == "never":
        return RunFolder(fresh)
    waiting = [path for path in runs if not is_finished(path)]
    changes = {path: differences(read_config(path), settings) for path in waiting}
    for path in reversed(waiting):
        begun = RunFolder(path).last is not None
        if not changes[path] if begun else resume != "must":
            return RunFolder(path, unfinished=True)
    if waiting and changes[waiting[-1]] and (resume == "must" or waiting[-1] == runs[-1]):
        raise RunError(_refusal(waiting[-1], changes[waiting[-1]]))
    if resume == "must":
        raise RunError(f"resume=must: {base} holds no unfinished run")
    return RunFolder(fresh)


def is_finished(path: Path) -> bool:
    """Whether all planned steps of a run are done and its result is written.

    Raises: RunError for a damaged `metrics.json`.
    """
    file = path / "metrics.json"
    try:
        return bool(json.loads(file.read_text()).get("finished")) if file.exists() else False
    except (ValueError, AttributeError) as error:
        raise RunError(f"{file} is damaged ({error}): remove it to go on, or give another run_dir=") from None


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
    """Replace a file as a whole: who reads it sees the old text or the new one."""
    from zoo.utils.files import write_atomic

    write_atomic(file, text.encode())


def _names(base: Path) -> Iterator[Path]:
    yield base
    number = 2
    while True:
        yield base.with_name(f"{base.name}-{number}")
        number += 1


def _numbered(base: Path) -> Iterator[Path]:
    """The runs there are: `base`, `base-2` ... up to the first gap. A folder without a config is no run."""
    for path in _names(base):
        if not (path / "config.yaml").exists():
            return
        yield path


def _refusal(path: Path, changes: dict[str, tuple[Any, Any]]) -> str:
    listed = "; ".join(f"{name}: {old!r} there, {new!r} here" for name, (old, new) in changes.items())
    return (f"{path} holds an unfinished run with other settings ({listed}). Give the old values to go on with it, "
            f"resume=never to start a new run beside it, or another run_dir=")  # fmt: skip


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ and matter, `{path: (old value, new value)}`; what `FREE` lists is not looked at."""
    before, now = _comparable(renamed.options(flatten(old))), _comparable(flatten(new))
    return {
        path: (before.get(path), now.get(path))
        for path in sorted(before.keys() | now.keys())
        if before.get(path) != now.get(path)
    }


def _comparable(values: dict[str, Any]) -> dict[str, Any]:
    """Flat settings without the free ones, and with the micro-batches of a step in the place of their factors."""
    flat = {path: value for path, value in values.items() if path not in FREE}
    factors = [flat.pop(f"trainer.{name}", 1) for name in ("devices", "num_nodes", "accumulate_grad_batches")]
    if "trainer.strategy" in flat:  # FSDP2 files the optimizer's state in an order of its own
        flat["trainer.strategy"] = "fsdp2" if flat["trainer.strategy"] == "fsdp2" else "a copy per device"
    flat["trainer.devices x num_nodes x accumulate_grad_batches"] = factors[0] * factors[1] * factors[2]
    return flat
