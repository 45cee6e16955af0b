"""Towers from the arguments of `zoo.contrast` and `zoo.bridge`, and the models that join them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.checkpoints.create import create_model
from zoo.checkpoints.load import describe, load
from zoo.models.base import Model
from zoo.models.load_report import LoadReport
from zoo.models.registry import family, find_variant, list_models
from zoo.models.towers import TowersModel
from zoo.nn.init import initialize, skip_init
from zoo.preprocessing.modality import MODALITIES
from zoo.utils.errors import did_you_mean

Source = str | Path | Model | Mapping[str, Any]
Locked = str | Sequence[str] | Mapping[str, int]


def check_locked(locked: Locked, names: Sequence[str]) -> dict[str, int]:
    """{tower: number of its last layer groups that are trained}. Raises ValueError for a tower not among `names`."""
    towers = (locked,) if isinstance(locked, str) else locked
    if odd := [name for name in towers if name not in names]:
        raise ValueError(f"locked={odd[0]!r}: expected one of {', '.join(names)}{did_you_mean(odd[0], names)}")
    return {name: towers[name] if isinstance(towers, Mapping) else 0 for name in towers}


def split_source(modality: str, source: Source) -> tuple[Any, dict[str, Any]]:
    """(a name, folder or model; its overrides) of a tower argument. Raises ValueError for overrides of a model."""
    overrides: dict[str, Any] = {}
    if isinstance(source, Mapping):
        overrides = dict(source)
        if "name" not in overrides:
            raise ValueError(
                f"the {modality} tower {dict(source)!r} lacks 'name': the name of a model, a folder or a model"
            )
        source = overrides.pop("name")
    return source, overrides


def check_unchanged(modality: str, overrides: Mapping[str, Any]) -> None:
    """Raise ValueError for overrides of a tower that is a model."""
    if overrides:
        raise ValueError(
            f"the {modality} tower is a model: {sorted(overrides)[0]!r} cannot be changed; set it when creating it"
        )


def make_tower(modality: str, source: Any, overrides: dict[str, Any], head: str | None, seed: int) -> Model:
    """The model of what `split_source` returns: created or loaded with `head`, a given model as it is.

    Of a model of several towers it is that of the modality. Raises ValueError for one that cannot be the tower.
    """
    if (given := overrides.pop("head", head)) != head:
        raise ValueError(f"the {modality} tower has head={given!r}, expected {head!r}, the default: omit head")
    if isinstance(source, Model):
        check_unchanged(modality, overrides)
        model = source
    elif isinstance(source, str | Path):
        model = create_or_load(source, head, seed, overrides)
    else:
        raise ValueError(f"the {modality} tower is a {type(source).__name__}; expected a name, a folder or a zoo.Model")
    if isinstance(model, TowersModel):
        whole, model = model, model.tower(modality)
        if model.preprocess is None:  # it is part of that of the whole model
            model.preprocess = getattr(whole.preprocess, modality, None)
    if family(model.family).modality != MODALITIES[modality].family:
        raise ValueError(
            f"a {model.family} model is for {family(model.family).modality} inputs, it cannot be the {modality} tower"
        )
    return model


def create_or_load(source: str | Path, head: str | None, seed: int, overrides: Mapping[str, Any]) -> Model:
    """A randomly initialized model by name, or a loaded one from a folder or the hub; one of several towers keeps its
    own head."""
    if str(source) in list_models():
        own: dict[str, Any] = {} if find_variant(str(source)).modality == "multimodal" else {"head": head}
        return create_model(str(source), seed=seed, **own, **overrides)
    if isinstance(source, Path) or "/" in source or Path(source).exists():
        own = {} if describe(source).family.modality == "multimodal" else {"head": head}
        return load(source, **own, **overrides)
    find_variant(source)  # raises and suggests the most similar name
    raise AssertionError(source)


def join(name: str, config: Any, towers: Mapping[str, Model], seed: int) -> Any:
    """A model of the family `name` of existing towers, whose other parameters are initialized with the seed.

    These have device and dtype of the first tower.
    """
    first, own = next(iter(towers.values())), family(name)
    with torch.device(first.device), skip_init():
        model: Any = own.model(config, towers)  # type: ignore[call-arg]
    for child, part in model.named_children():
        if child not in towers:
            part.to(first.dtype)
    fresh = {weight for weight, _ in model.named_parameters() if weight.split(".")[0] not in towers}
    if first.device.type != "meta":
        with torch.device("cpu"):
            initialize(model, seed, only=fresh)
    model.preprocess = model.default_preprocess()
    model.load_report = joint_report(towers, fresh)
    return model


def joint_report(towers: Mapping[str, Model], fresh: Iterable[str]) -> LoadReport:
    """The report of a model of loaded towers with the newly initialized parameters `fresh`."""
    reports = {name: tower.load_report for name, tower in towers.items() if tower.load_report is not None}
    joint = LoadReport("towers", initialized=sorted(fresh))
    for name, report in reports.items():
        for kind in ("mapped", "dropped", "initialized", "resampled"):
            getattr(joint, kind).extend(f"{name}.{each}" for each in getattr(report, kind))
        joint.notes += report.notes
    return joint
