"""Names -> models."""

import importlib
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from typing import Any

import torch

from . import models
from .errors import did_you_mean
from .models.base import NAMING, Config, Family, Model
from .nn.init import initialise, uninitialised
from .nn.kinds import MIXERS, admit
from .weights import LoadReport

FILE = object()  # head=FILE: the head that the name or the file has


@cache
def family(name: str) -> Family:
    """The family called `name` ("vit"); its file is imported now."""
    if name not in models.FAMILIES:
        raise ValueError(
            f"no family {name!r}{did_you_mean(name, models.FAMILIES)} (known: {', '.join(models.FAMILIES)})"
        )
    found: Family = importlib.import_module(f"zoo.models.{name}").FAMILY
    found.model.family = name
    return found


def families() -> Iterator[Family]:
    return map(family, models.FAMILIES)


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
    family.config.refuse_unknown(overrides)
    overrides = dict(overrides)
    for name in overrides:
        if name == "attention" or name.endswith(("_attention", ".attention")):
            overrides[name] = admit(overrides[name])
        elif name == "mixer" or name.endswith(".mixer"):
            overrides[name] = admit(overrides[name], MIXERS)
    if overrides.get("num_classes") == 0:
        overrides.setdefault("head", "pool")
    return overrides


def create_model(
    name: str, pretrained: bool = False, *, head: Any = FILE, seed: int | None = None, **overrides: Any
) -> Model:
    """A model by the name that people type today, e.g. `create_model("vit_base_patch16_224", num_classes=10)`.

    pretrained: weights of the variant's default source (zoo.load takes all others). head: "classify", "pool" or None
    (hidden states), default the variant's. seed: initial values are a pure function of it; default: torch's generator.
    overrides: fields of the family's config, e.g. image_size, depth, attention="performer".
    """
    f = find_variant(name)
    if head is not FILE:
        overrides["head"] = head
    if pretrained:
        from .loading import load

        if name not in f.sources:
            raise ValueError(f"{name} has no published weights; zoo.list_models(pretrained=True) lists those that have")
        model = load(f.sources[name], **overrides)
        model.variant = name
        return model
    config = f.config(**f.variants[name])
    if overrides.get("num_classes") and config.head not in NAMING:
        overrides.setdefault("head", "classify")
    config = config.replace(**admitted(f, overrides))
    if seed is None:
        seed = int(torch.randint(2**31, ()).item())
    with torch.random.fork_rng(devices=[]):  # parts of one's own draw from torch's generator: keyed as well
        torch.manual_seed(seed)
        model = build(f, config, "cpu")
    initialise(model, seed)
    model.variant = name
    model.preprocess = model.default_preprocess()
    model.load_report = LoadReport("nothing", initialised=list(model.state_dict()))
    return model


def build(family: Family, config: Config, device: str | torch.device = "meta") -> Model:
    """Construct without drawing initial values: on "meta" to be filled from a file, elsewhere for `initialise`."""
    with torch.device(device), uninitialised():
        return family.model(config)
