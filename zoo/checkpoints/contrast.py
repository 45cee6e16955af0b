"""`zoo.contrast`: combine two or three encoders in one contrastive model."""

from typing import Any, Literal

import torch

from zoo.checkpoints.towers import Locked, Source, check_locked, join, make_tower, split_source
from zoo.models.base import Model
from zoo.models.contrast.model import Contrastive
from zoo.models.tower_config import TOWERS, ContrastiveConfig, Tower
from zoo.nn.init import initialize, skip_init


def contrast(
    *,
    image: Source | None = None,
    text: Source | None = None,
    audio: Source | None = None,
    width: int = 256,
    loss: Literal["clip", "siglip"] = "clip",
    locked: Locked = (),
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
    frozen = check_locked(locked, list(given))
    if seed is None:
        seed = int(torch.randint(2**31, (), device="cpu").item())
    towers: dict[str, Model] = {}
    configs: dict[str, Any] = {}
    for name, source in given.items():
        model, proj = pooling_tower(name, source, seed)
        towers[name] = model
        configs[name] = Tower(family=model.family, config=model.config, proj=proj)
    joint: Contrastive = join("contrast", ContrastiveConfig(width=width, loss=loss, **configs), towers, seed)
    for name, trained in frozen.items():
        joint.lock(name, trained)
    return joint


def pooling_tower(modality: str, source: Source, seed: int) -> tuple[Model, Any]:
    """(a model with head="pool", its projection) from a tower argument of `contrast`."""
    source, overrides = split_source(modality, source)
    proj = overrides.pop("proj", "linear")
    try:
        model = make_tower(modality, source, overrides, "pool", seed)
    except ValueError as error:
        if "head='pool'" in str(error):  # which the caller did not write
            raise ValueError(f"the {modality} tower {str(source)!r} cannot pool its tokens: {error}") from None
        raise
    return with_pooling(modality, model, seed), proj


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
