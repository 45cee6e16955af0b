"""Families and model names."""

import importlib
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import torch

from zoo.models.base import Model
from zoo.models.config import Config
from zoo.models.family import Family
from zoo.nn.init import uninitialized
from zoo.nn.registry import MIXERS, admit
from zoo.utils import renamed
from zoo.utils.errors import did_you_mean

FILE = object()  # head=FILE: the head that the name or the file has


@cache
def family_names() -> tuple[str, ...]:
    """The folders of families beside this file, by name."""
    return tuple(sorted(file.parent.name for file in Path(__file__).parent.glob("*/model.py")))


@cache
def family(name: str) -> Family:
    """The family called `name` ("vit"); its folder is imported now."""
    known = family_names()
    if name not in known:
        raise ValueError(f"no family {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})")
    found: Family = importlib.import_module(f"zoo.models.{name}.model").FAMILY
    found.model.family = name
    return found


def families() -> Iterator[Family]:
    """Every family, by name."""
    return map(family, family_names())


def list_models(pattern: str = "*", modality: str | None = None, pretrained: bool = False) -> list[str]:
    """Names that match a pattern (`"*dinov2*"`), of one modality, or only those with published weights."""
    known = sorted({f.modality for f in families()})
    if modality is not None and modality not in known:
        raise ValueError(f"no modality {modality!r}{did_you_mean(modality, known)} (known: {', '.join(known)})")
    return [
        name
        for f in families()
        if modality in (None, f.modality)
        for name in f.variants
        if fnmatch(name, pattern) and (name in f.sources or not pretrained)
    ]


def find_variant(name: str) -> Family:
    """The family that a model name belongs to; an unknown name raises with the nearest."""
    for f in families():
        if name in f.variants:
            return f
    near = did_you_mean(name, list_models())
    raise ValueError(f"no model {name!r}{near} (zoo.list_models() lists all; files and hub names go to zoo.load)")


def admitted(family: Family, overrides: dict[str, Any]) -> dict[str, Any]:
    """What a user wrote, made fit for a config: classes become names, `num_classes=0` becomes `head="pool"`."""
    overrides = _under_new_names(overrides)
    family.config.refuse_unknown(overrides)
    for name in overrides:
        if name == "attention" or name.endswith(("_attention", ".attention")):
            overrides[name] = admit(overrides[name])
        elif name == "mixer" or name.endswith(".mixer"):
            overrides[name] = admit(overrides[name], MIXERS)
    if overrides.get("num_classes") == 0:
        overrides.setdefault("head", "pool")
    return overrides


def _under_new_names(overrides: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in overrides.items():
        aim, dot, field = name.rpartition(".")
        new = f"{aim}{dot}{renamed.FIELDS.get(field, field)}"
        if new != name:
            renamed.warn(f"{name}=", f"{new}=")
        if new in result or (new != name and new in overrides):
            raise ValueError(f"{new}= is given twice, once under its old name {name}=")
        if new.endswith("problem_type") and value in renamed.PROBLEM_TYPES:
            renamed.warn(f"problem_type={value!r}", repr(renamed.PROBLEM_TYPES[value]))
            value = renamed.PROBLEM_TYPES[value]
        result[new] = value
    return result


def build(family: Family, config: Config, device: str | torch.device = "meta") -> Model:
    """Construct without drawing initial values: on "meta" to be filled from a file, elsewhere for `initialize`."""
    with torch.device(device), uninitialized():
        return family.model(config)
