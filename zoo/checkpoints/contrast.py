"""`zoo.contrast`: combine two or three encoders in one contrastive model."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from zoo.checkpoints.create import create_model
from zoo.checkpoints.load import describe, load
from zoo.models.base import Model
from zoo.models.contrast.model import Contrastive
from zoo.models.load_report import LoadReport
from zoo.models.registry import family, find_variant, list_models
from zoo.models.tower_config import TOWERS, ContrastiveConfig, Tower
from zoo.models.towers import TowersModel
from zoo.nn.init import initialize, skip_init
from zoo.preprocessing.modality import MODALITIES
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
    """Create a contrastive model of two or three towers with a shared embedding space of dimension `width`.

        zoo.contrast(image="vit_cifar_tiny", text={"name": "bert_mini", "pool": "mean", "pooler": None})

    A tower is the name of a model (randomly initialized), a folder or hub repository (loaded), a model (not copied; its
    head is replaced by pooling), or any of these as {"name": ..., field: value, ...} with fields of its config and
    "proj", the projection of its features: "linear" (default), "affine" or None.
    loss: "clip" or "siglip". locked: towers that are frozen (LiT), or {tower: number of its last
    layer groups that are trained}; not saved. seed: as in `zoo.create_model`.
    """
    sources = {"image": image, "text": text, "audio": audio}
    given = {name: source for name, source in sources.items() if source is not None}
    if len(given) < 2:
        raise ValueError(f"expected two or three towers of {', '.join(TOWERS)}, got {', '.join(given) or 'none'}")
    locked = (locked,) if isinstance(locked, str) else locked
    if odd := [name for name in locked if name not in given]:
        raise ValueError(f"locked={odd[0]!r}: expected one of {', '.join(given)}{did_you_mean(odd[0], given)}")
    if seed is None:
        seed = int(torch.randint(2**31, (), device="cpu").item())
    towers: dict[str, Model] = {}
    configs: dict[str, Any] = {}
    for name, source in given.items():
        model, proj = make_tower(name, source, seed)
        towers[name] = model
        configs[name] = Tower(family=model.family, config=model.config, proj=proj)
    model = join(ContrastiveConfig(width=width, loss=loss, **configs), towers, seed)
    for name in locked:
        model.lock(name, locked[name] if isinstance(locked, Mapping) else 0)
    return model


def join(config: ContrastiveConfig, towers: Mapping[str, Model], seed: int) -> Contrastive:
    """The towers with newly initialized projections and temperature."""
    first = next(iter(towers.values()))
    family("contrast")
    with torch.device(first.device), skip_init():
        model = Contrastive(config, towers)
    for part in (model.image_proj, model.text_proj, model.audio_proj):
        if part is not None:
            part.to(first.dtype)
    fresh = {name for name, _ in model.named_parameters() if name.split(".")[0] not in TOWERS}
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


def make_tower(modality: str, source: Source, seed: int) -> tuple[Model, Any]:
    """(a model with head="pool", its projection) from a tower argument of `contrast`."""
    source, overrides = split_source(modality, source)
    proj, head = overrides.pop("proj", "linear"), overrides.pop("head", "pool")
    if head != "pool":
        raise ValueError(f"the {modality} tower has head={head!r}, expected 'pool', the default: omit head")
    if isinstance(source, Model):
        check_unchanged(modality, overrides)
        model = source
    elif isinstance(source, str | Path):
        model = create_or_load(modality, source, seed, overrides)
    else:
        raise ValueError(f"the {modality} tower is a {type(source).__name__}; expected a name, a folder or a zoo.Model")
    if isinstance(model, TowersModel):
        model = model.tower(modality)
    if family(model.family).modality != MODALITIES[modality].family:
        raise ValueError(
            f"a {model.family} model is for {family(model.family).modality} inputs, it cannot be the {modality} tower"
        )
    return with_pooling(modality, model, seed), proj


def create_or_load(modality: str, source: str | Path, seed: int, overrides: dict[str, Any]) -> Model:
    """A randomly initialized model by name, or a loaded one from a folder or the hub."""
    head: dict[str, Any] = {"head": "pool"}
    if str(source) in list_models():
        if find_variant(str(source)).modality == "multimodal":
            return create_model(str(source), seed=seed, **overrides)
        return explain_pooling(modality, source, lambda: create_model(str(source), seed=seed, **head, **overrides))
    if isinstance(source, Path) or "/" in source or Path(source).exists():
        return explain_pooling(modality, source, lambda: load_tower(source, head, overrides, load))
    find_variant(source)  # raises and suggests the most similar name
    raise AssertionError(source)


def load_tower(source: str | Path, head: dict[str, Any], overrides: dict[str, Any], load: Any) -> Model:
    whole = describe(source).family.modality == "multimodal"
    return load(source, **({} if whole else head), **overrides)


def explain_pooling(modality: str, source: Any, make: Any) -> Model:
    """`make()`; an error about head="pool", which the caller did not write, is explained."""
    try:
        return make()
    except ValueError as error:
        if "head='pool'" in str(error):
            raise ValueError(f"the {modality} tower {str(source)!r} cannot pool its tokens: {error}") from None
        raise


def with_pooling(modality: str, model: Model, seed: int) -> Model:
    """The model with head="pool"; other layers of its head are removed."""
    if model.config.head == "pool":
        return model
    before = {} if model.head is None else model.head.state_dict()
    like = next(model.parameters())
    try:
        model.config = model.config.replace(head="pool")
    except ValueError as error:
        raise ValueError(f"the {modality} tower ({model.family}) cannot pool its tokens: {error}") from None
    with skip_init():
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
