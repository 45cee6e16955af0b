"""`zoo.bridge`: join an encoder of images or audio to a text decoder, which reads its features."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.checkpoints.contrast import Source, check_unchanged, joint_report, split_source
from zoo.checkpoints.create import create_model
from zoo.checkpoints.load import describe, load
from zoo.models.base import Model
from zoo.models.bridge.config import ENCODERS, BridgeConfig
from zoo.models.bridge.model import Bridge
from zoo.models.registry import family, find_variant, list_models
from zoo.models.tower_config import Part
from zoo.models.towers import TowersModel
from zoo.nn.init import initialize, skip_init
from zoo.preprocessing.modality import MODALITIES
from zoo.preprocessing.text import TextProcessor, parse_tokenizer
from zoo.utils.errors import did_you_mean


def bridge(
    *,
    text: Source,
    image: Source | None = None,
    audio: Source | None = None,
    by: Literal["projector", "resampler", "cross"] = "projector",
    token: str | int | None = None,
    locked: str | Sequence[str] | Mapping[str, int] = (),
    seed: int | None = None,
    **options: Any,
) -> Bridge:
    """Create a model that writes texts about images or audio, of an encoder and a text decoder.

        zoo.bridge(image="clip_vit_base_patch32", text="path/to/llama", locked=("image", "text"))

    A tower is the name of a model (randomly initialized), a folder or hub repository (loaded), a model (not copied; the
    head of an encoder is removed), the matching tower of any of these that has several, or any of these as
    {"name": ..., field: value, ...} with fields of its config.
    by: how the decoder reads the features: "projector", in the places of tokens (LLaVA); "resampler", the same with a
    fixed number of tokens (resampler_tokens=); "cross", by gated cross-attention between its blocks (Flamingo).
    token: the marker of an image in a text, by default "<image>" (or "<audio>"), or its id. A marker that the tokenizer
    does not have is added to it, and the decoder gets an embedding for it, if it has none to spare.
    locked: towers that are frozen, or {tower: number of its last layer groups that are trained}; not saved. seed: as in
    `zoo.create_model`. options: fields of `BridgeConfig`: projector, projector_norm, feature_layer, ...

    Returns a model for `zoo.generate(model, text=..., images=[...])` and training. Raises ValueError for towers that do
    not fit and for unknown options.
    """
    sources = {name: source for name, source in (("image", image), ("audio", audio)) if source is not None}
    if len(sources) != 1:
        raise ValueError(f"expected one encoder, image= or audio=, given {' and '.join(sources) or 'none'}")
    encoder = next(iter(sources))
    check_options(options, encoder)
    locked = (locked,) if isinstance(locked, str) else locked
    if odd := [name for name in locked if name not in (encoder, "text")]:
        raise ValueError(f"locked={odd[0]!r}: expected {encoder} or text{did_you_mean(odd[0], [encoder, 'text'])}")
    if seed is None:
        seed = int(torch.randint(2**31, (), device="cpu").item())
    towers = {encoder: make_tower(encoder, sources[encoder], None, seed), "text": make_tower("text", text, "lm", seed)}
    marker = add_marker(towers["text"], f"<{encoder}>" if token is None else token)
    parts: dict[str, Any] = {name: Part(family=tower.family, config=tower.config) for name, tower in towers.items()}
    config = BridgeConfig(**parts | {f"{encoder}_token_id": marker} | options, by=by)
    model = join(config, towers, seed)
    for name in locked:
        model.lock(name, locked[name] if isinstance(locked, Mapping) else 0)
    return model


def check_options(options: Mapping[str, Any], encoder: str) -> None:
    """Raise ValueError for what is not a field that the caller may set."""
    own = {"head", "text", "by", *ENCODERS, *(f"{name}_token_id" for name in ENCODERS)}
    known = [name for name in BridgeConfig.names() if name not in own]
    for name in options:
        if name in own:
            raise ValueError(f"{name} is set by the towers and token=: omit it")
        if name not in known:
            raise ValueError(f"bridge has no option {name!r}{did_you_mean(name, known)} (options: {', '.join(known)})")


def make_tower(modality: str, source: Source, head: str | None, seed: int) -> Model:
    """A model with this head from a tower argument of `bridge`."""
    source, overrides = split_source(modality, source)
    if "head" in overrides and overrides.pop("head") != head:
        raise ValueError(f"the {modality} tower has head={head!r}: omit head")
    if isinstance(source, Model):
        check_unchanged(modality, overrides)
        model = source
    elif isinstance(source, str | Path):
        model = create_or_load(source, head, seed, overrides)
    else:
        raise ValueError(f"the {modality} tower is a {type(source).__name__}; expected a name, a folder or a zoo.Model")
    if isinstance(model, TowersModel):
        model = model.tower(modality)
    if family(model.family).modality != MODALITIES[modality].family:
        raise ValueError(
            f"a {model.family} model is for {family(model.family).modality} inputs, it cannot be the {modality} tower"
        )
    if head is None:
        model.config, model.head, model.labels = model.config.replace(head=None), None, None
    elif model.config.head != head:
        raise ValueError(
            f"the {modality} tower has head={model.config.head!r}, expected a decoder with head={head!r}, such as "
            "llama or gpt2"
        )
    return model


def create_or_load(source: str | Path, head: str | None, seed: int, overrides: dict[str, Any]) -> Model:
    """A randomly initialized model by name, or a loaded one from a folder or the hub."""
    if str(source) in list_models():
        overrides |= {} if find_variant(str(source)).modality == "multimodal" else {"head": head}
        return create_model(str(source), seed=seed, **overrides)
    if isinstance(source, Path) or "/" in source or Path(source).exists():
        overrides |= {} if describe(source).family.modality == "multimodal" else {"head": head}
        return load(source, **overrides)
    find_variant(source)  # raises and suggests the most similar name
    raise AssertionError(source)


# --- The marker -------------------------------------------------------------------------------------------------------


def add_marker(text: Any, token: str | int) -> int:
    """The id of a marker in the vocabulary of a decoder, which gets it where it lacks it."""
    if isinstance(token, int):
        return token
    processor, size = text.preprocess, text.config.vocab_size
    number = size
    if isinstance(processor, TextProcessor):
        backend = parse_tokenizer(processor.tokenizer)
        if (known := backend.token_to_id(token)) is None:
            backend.add_special_tokens([token])
            known = backend.token_to_id(token)
            text.preprocess = replace(processor, tokenizer=backend.to_str())
        number = known
    if number >= size:
        grow_vocabulary(text, number + 1)
    return int(number)


def grow_vocabulary(text: Any, size: int) -> None:
    """Give a decoder embeddings, and rows of its head, for `size` tokens: the new ones are the mean of the others."""

    def grown(old: nn.Parameter) -> nn.Parameter:
        more = size - len(old)
        rows: Tensor = torch.cat([old.detach(), old.detach().mean(0, keepdim=True).expand(more, *old.shape[1:])])
        return nn.Parameter(rows.contiguous(), requires_grad=old.requires_grad)

    word, proj = text.tokens.word, text.head.proj
    tied = proj.weight is word.weight
    word.weight, word.num_embeddings = grown(word.weight), size
    proj.weight = word.weight if tied else grown(proj.weight)
    if isinstance(proj.bias, nn.Parameter):
        proj.bias = grown(proj.bias)
    proj.out_features = size
    text.config = text.config.replace(vocab_size=size)


# --- The model --------------------------------------------------------------------------------------------------------


def join(config: BridgeConfig, towers: Mapping[str, Model], seed: int) -> Bridge:
    """The towers with a newly initialized connector."""
    first = next(iter(towers.values()))
    family("bridge")
    with torch.device(first.device), skip_init():
        model = Bridge(config, towers)
    fresh = {name for name, _ in model.named_parameters() if name.split(".")[0] not in towers}
    for name, part in model.named_children():
        if name not in towers:
            part.to(first.dtype)
    if first.device.type != "meta":
        with torch.device("cpu"):
            initialize(model, seed, only=fresh)
    model.preprocess = model.default_preprocess()
    model.load_report = joint_report(towers, fresh)
    return model.eval() if not any(tower.training for tower in towers.values()) else model
