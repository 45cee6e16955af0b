"""`zoo.contrast`: any towers of the zoo become one space."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from zoo.checkpoints.create import create_model
from zoo.checkpoints.load import describe, load
from zoo.models.base import Model
from zoo.models.contrast.model import Contrastive
from zoo.models.load_report import LoadReport
from zoo.models.registry import family, find_variant, list_models
from zoo.models.tower_config import KIND, MODALITIES, ContrastiveConfig, Tower
from zoo.nn.init import initialize, uninitialized
from zoo.utils.errors import did_you_mean

Source = str | Path | Model | Mapping[str, Any]


def contrast(
    *,
    image: Source | None = None,
    text: Source | None = None,
    audio: Source | None = None,
    width: int = 256,
    loss: Literal["clip", "siglip"] = "clip",
    locked: str | Sequence[str] | Mapping[str, int] = (),
    seed: int | None = None,
) -> Contrastive:
    """A model of two or three towers that share a space of `width` numbers.

        zoo.contrast(image="vit_cifar_tiny", text={"name": "bert_mini", "pool": "mean", "pooler": None})

    A tower is a name (drawn anew), a folder or hub name (loaded), a model (not copied; its head gives way to pooling),
    or any of them as {"name": ..., field: value, ...} with fields of its config; "proj": "linear" (default), "affine"
    or None says how its features enter the space. locked: towers that do not learn (LiT), or {tower: groups that learn
    all the same}; it is a matter of training, and not saved. seed: as in create_model.
    """
    sources = {"image": image, "text": text, "audio": audio}
    given = {name: source for name, source in sources.items() if source is not None}
    if len(given) < 2:
        raise ValueError(f"expected two towers or three of {', '.join(MODALITIES)}, given {list(given) or 'none'}")
    locked = (locked,) if isinstance(locked, str) else locked
    if odd := [name for name in locked if name not in given]:
        raise ValueError(f"locked={odd[0]!r}: the towers are {', '.join(given)}{did_you_mean(odd[0], given)}")
    if seed is None:
        seed = int(torch.randint(2**31, ()).item())
    towers: dict[str, Model] = {}
    told: dict[str, Any] = {}
    for name, source in given.items():
        model, proj = make_tower(name, source, seed)
        towers[name] = model
        told[name] = Tower(family=model.family, config=model.config, proj=proj)
    model = join(ContrastiveConfig(width=width, loss=loss, **told), towers, seed)
    for name in locked:
        model.lock(name, locked[name] if isinstance(locked, Mapping) else 0)
    return model


def join(config: ContrastiveConfig, towers: Mapping[str, Model], seed: int) -> Contrastive:
    """Towers with fresh projections and temperature."""
    first = next(iter(towers.values()))
    family("contrast")
    with torch.device(first.device), uninitialized():
        model = Contrastive(config, towers)
    for part in (model.image_proj, model.text_proj, model.audio_proj):
        if part is not None:
            part.to(first.dtype)
    fresh = {name for name, _ in model.named_parameters() if name.split(".")[0] not in MODALITIES}
    initialize(model, seed, only=fresh)
    model.preprocess = model.default_preprocess()
    reports = {name: tower.load_report for name, tower in towers.items() if tower.load_report is not None}
    model.load_report = LoadReport("towers", initialized=sorted(fresh))
    for name, report in reports.items():
        for kind in ("mapped", "dropped", "initialized", "resampled"):
            getattr(model.load_report, kind).extend(f"{name}.{each}" for each in getattr(report, kind))
        model.load_report.notes += report.notes
    return model


def make_tower(modality: str, source: Source, seed: int) -> tuple[Model, Any]:
    """(a model with head="pool", its kind of projection) from what `contrast` was given."""
    overrides: dict[str, Any] = {}
    if isinstance(source, Mapping):
        overrides = dict(source)
        if "name" not in overrides:
            raise ValueError(f"the {modality} tower {dict(source)!r} lacks 'name': a model's name, a folder or a model")
        source = overrides.pop("name")
    proj, asked = overrides.pop("proj", "linear"), overrides.get("head")
    if overrides.pop("head", "pool") != "pool":
        raise ValueError(f"the {modality} tower has head={asked!r}, which pools nothing: leave it out, towers pool")
    if isinstance(source, Model):
        if overrides:
            raise ValueError(f"the {modality} tower is a model: it cannot take {sorted(overrides)[0]!r} any more")
        model = source
    elif isinstance(source, str | Path):
        model = named(modality, source, seed, overrides)
    else:
        raise ValueError(f"the {modality} tower is a {type(source).__name__}: expected a name, a folder or a zoo.Model")
    if isinstance(model, Contrastive):
        model = model.tower(modality)
    if family(model.family).modality != KIND[modality]:
        raise ValueError(f"{model.family!r} takes {family(model.family).modality}: it cannot be the {modality} tower")
    return pooled(modality, model, seed), proj


def named(modality: str, source: str | Path, seed: int, overrides: dict[str, Any]) -> Model:
    """A model by its name, drawn anew, or from a folder or the hub."""
    head: dict[str, Any] = {"head": "pool"}
    if str(source) in list_models():
        if find_variant(str(source)).modality == "multimodal":
            return create_model(str(source), seed=seed, **overrides)
        return refusing(modality, source, lambda: create_model(str(source), seed=seed, **head, **overrides))
    if isinstance(source, Path) or "/" in source or Path(source).exists():
        return refusing(modality, source, lambda: load_tower(source, head, overrides, load))
    find_variant(source)  # raises with the nearest name
    raise AssertionError(source)


def load_tower(source: str | Path, head: dict[str, Any], overrides: dict[str, Any], load: Any) -> Model:
    whole = describe(source).family.modality == "multimodal"
    return load(source, **({} if whole else head), **overrides)


def refusing(modality: str, source: Any, make: Any) -> Model:
    """`make()`, a refusal of head="pool" told as what it means here."""
    try:
        return make()
    except ValueError as error:
        if "head='pool'" in str(error):
            raise ValueError(f"the {modality} tower {str(source)!r} cannot pool its tokens: {error}") from None
        raise


def pooled(modality: str, model: Model, seed: int) -> Model:
    """The model with head="pool"; what its head has beyond that is left behind."""
    if model.config.head == "pool":
        return model
    before = {} if model.head is None else model.head.state_dict()
    like = next(model.parameters())
    try:
        model.config = model.config.replace(head="pool")
    except ValueError as error:
        raise ValueError(f"the {modality} tower ({model.family}) cannot pool its tokens: {error}") from None
    with uninitialized():
        model.head = model.make_head()
    model.labels = None
    if model.head is None:
        return model
    model.head.to(like.device, like.dtype).train(model.training)
    own = model.head.state_dict()
    kept = {name: value for name, value in before.items() if name in own and own[name].shape == value.shape}
    initialize(model, seed, only={f"head.{name}" for name in own.keys() - kept.keys()})
    model.head.load_state_dict(kept, strict=False)
    return model
