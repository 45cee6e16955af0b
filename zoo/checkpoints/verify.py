"""`zoo.verify`: compare a loaded model with the original library, or with its golden outputs."""

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from zoo.checkpoints.golden import RECORD, description, named_outputs, run_batch
from zoo.checkpoints.load import describe, load, model_path
from zoo.checkpoints.peers import PACKAGES, PEERS, pools
from zoo.checkpoints.verify_preprocessing import compare
from zoo.models.base import Model
from zoo.models.example_batch import example_batch
from zoo.utils.atomic import read_folder
from zoo.utils.errors import LoadError
from zoo.utils.escape import printable
from zoo.utils.files import open_tensors
from zoo.utils.version import __version__

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5}  # of the error measure; half precision below
HALF = 2e-2


@dataclass(frozen=True)
class Verification:
    """Result of `zoo.verify`. Prints as one line.

    difference: max|ours - theirs| / max(1, max|theirs|) over all outputs.
    changes: What else differs, labels, config and preprocessing, in words. notes: What could not be compared.
    ok: the difference is at most `tolerance`, and there are no changes.
    """

    source: str
    against: str
    difference: float
    tolerance: float
    versions: dict[str, str]
    changes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.difference <= self.tolerance and not self.changes

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        sign = "ok" if self.ok else "DIFFERENT"
        return printable(
            f"{self.source}: {sign}, greatest difference to {self.against} {self.difference:.2g} "
            f"(tolerance {self.tolerance:g}; {versions})"
            + "".join(f"; {text}" for text in (*self.changes, *self.notes))
        )


def verify(source: str | Path, revision: str | None = None) -> Verification:
    """Compare outputs for a seeded batch, labels and preprocessing with those of the library that the files come from.

    A folder of transformers, timm, open_clip or torch_geometric is compared with that library, which must be installed:
    label names, the ids of some texts, the pixels of some images, and features of a waveform. A folder of ours is
    compared with the golden outputs, labels, config and preprocessing that were saved beside its weights.
    revision: of a hub repository.
    """
    path = model_path(source, revision)
    return read_folder(path.parent if path.suffix == ".json" else path, lambda: _verify(source, revision))


def _verify(source: str | Path, revision: str | None) -> Verification:
    checkpoint = describe(source, revision)
    if checkpoint.tensors is not None and checkpoint.format != "zoo":
        raise LoadError(
            f"{source} is a file of weights: zoo.verify compares a folder; load the file and export it first"
        )
    model = load(source, revision=revision)
    if checkpoint.format == "transformers" and model.config.head == "pool" and not pools(checkpoint):
        model = load(source, revision=revision, head=None)  # their classes return the hidden states
    if checkpoint.format == "zoo":
        return _against_golden(str(source), checkpoint.path, model)
    batch = example_batch(model)
    peer = PEERS[checkpoint.format](checkpoint, model.dtype)
    result = _compare(str(source), checkpoint.format, model, batch, named_outputs(peer.outputs(batch)))
    changes, notes = compare(model, peer)
    return replace(result, changes=tuple(changes), notes=tuple(notes))


def _against_golden(source: str, path: Path, model: Model) -> Verification:
    if not (file := path / "golden.safetensors").is_file():
        raise LoadError(f"{path} has no golden.safetensors to verify against: save the model again with zoo.save")
    saved = open_tensors(file)
    batch = {name.removeprefix("input."): saved[name] for name in saved if name.startswith("input.")}
    outputs = {name: saved[name] for name in saved if not name.startswith("input.")}
    result = _compare(source, "its golden outputs", model, batch, outputs)
    with safe_open(file, framework="pt") as handle:
        recorded = (handle.metadata() or {}).get(RECORD)
    if recorded is None:
        return replace(result, notes=("labels and preprocessing are not recorded in it: save the model again",))
    return replace(result, changes=_changes(description(model), json.loads(recorded)))


def _changes(now: Mapping[str, Any], recorded: Mapping[str, Any]) -> tuple[str, ...]:
    """What differs. Fields of the config that another version of this package has or lacks are not changes."""
    fields = {name for name in now.keys() ^ recorded.keys() if name.startswith("config.")}
    names = [name for name in {**recorded, **now} if name not in fields and now.get(name) != recorded.get(name)]
    return tuple(f"{name} is {_short(now.get(name))}, saved as {_short(recorded.get(name))}" for name in names)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _compare(
    source: str, against: str, model: Model, batch: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> Verification:
    ours = run_batch(model, batch)
    if shapes := [
        f"{n}: {list(ours[n].shape)} and {list(t.shape)}" for n, t in theirs.items() if ours[n].shape != t.shape
    ]:
        raise LoadError(f"{source}: the outputs differ in shape, ours and those of {against}: {', '.join(shapes)}")
    worst = max(error(ours[name], theirs[name]) for name in theirs)
    packages = ["torch", *([against] if against in PEERS else [])]
    versions = {"zoo": __version__} | {name: importlib.metadata.version(PACKAGES.get(name, name)) for name in packages}
    return Verification(source, against, worst, TOLERANCE.get(model.dtype, HALF), versions)


def error(ours: Tensor, theirs: Tensor) -> float:
    """max|ours - theirs| / max(1, max|theirs|); infinite if either has NaNs."""
    a, b = ours.double(), theirs.double()
    worst = ((a - b).abs().max() / b.abs().max().clamp_min(1)).item()
    return worst if worst == worst else float("inf")
