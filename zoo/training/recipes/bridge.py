"""The bridge of an image encoder and a text decoder of a run, with the tokenizer and the layout of its tokens."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from zoo.checkpoints.create import create_model
from zoo.checkpoints.load import load
from zoo.data.image_text.datamodule import TokenLayout
from zoo.data.image_text.dataset import ImageTexts
from zoo.data.splits import Splits
from zoo.models.bridge.config import BridgeConfig
from zoo.models.bridge.model import Bridge
from zoo.models.registry import find_variant, list_models
from zoo.models.tower_config import Part
from zoo.nn.init import initialize, skip_init
from zoo.preprocessing.modality import MODALITIES
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.preprocessing.text import TextProcessor
from zoo.training.parse import SettingsError
from zoo.training.recipes.text import new_tokenizer, token_fields
from zoo.training.recipes.towers import is_new, tower_overrides
from zoo.training.run import Run

DEFAULT_VOCAB_SIZE = 1000  # of a new tokenizer, unless `text.vocab_size=` is given
IMAGE_TOKEN = "<image>"
TOWERS = ("image", "text")
HEADS = {"image": None, "text": "lm"}


def bridge_model(run: Run) -> Bridge:
    """The model of the settings; a new text tower gets its vocabulary with `fit_to_texts`.

    Raises: SettingsError with the message of what cannot be built or loaded.
    """
    try:
        return build(run, {})
    except (ValueError, TypeError) as error:
        raise SettingsError(str(error)) from error


def build(run: Run, from_data: Mapping[str, Any]) -> Bridge:
    """The model of the settings. from_data: fields that depend on the data, such as `text.vocab_size`."""
    s = run.config
    if s.model.source:
        model: Any = load(s.model.source, **s.model.overrides).train()
        if not isinstance(model, Bridge):
            raise ValueError(f"model.source={s.model.source} is a {model.family}: expected a bridge of images and "
                             f"text. Give single towers as image.name= and text.name=")  # fmt: skip
        return model
    if s.model.name:
        raise ValueError(f"model={s.model.name}: give the towers as image.name= and text.name=")
    own_fields = set(BridgeConfig.names()) - {"attention", "mixer", "dropout"}
    fields, own = tower_overrides(run, TOWERS, own_fields)
    for name, value in from_data.items():
        tower, dot, field = name.partition(".")
        (fields[tower] if dot else own)[field or name] = value
    towers = {name: make_tower(name, fields[name], s.seed) for name in TOWERS}
    own |= {name: Part(family=tower.family, config=tower.config) for name, tower in towers.items()}
    own.setdefault("image_token_id", towers["text"].config.vocab_size - 1)
    if s.by == "resampler":
        own.setdefault("resampler_tokens", 16)
    with skip_init():
        model = Bridge(BridgeConfig(by=s.by, **own), towers)
    initialize(model, s.seed, only={n for n, _ in model.named_parameters() if n.split(".")[0] not in TOWERS})
    processors = {name: tower.preprocess or tower.default_preprocess() for name, tower in towers.items()}
    model.preprocess = MultimodalProcessor(image=processors["image"], text=processors["text"])
    for name in TOWERS:
        if (chosen := getattr(s, name)).locked:
            model.lock(name, chosen.unlocked)
    return model.train()


def make_tower(modality: str, fields: Mapping[str, Any], seed: int) -> Any:
    """A tower by the name of a model, or from a folder or the hub, with the head that a bridge needs."""
    overrides = {"head": HEADS[modality]} | dict(fields)
    name = overrides.pop("name")
    if not name:
        raise ValueError(f"give the {modality} tower as {modality}.name=: the name of a model, a folder or a hub name")
    if name in list_models() and (found := find_variant(name)).modality != (kind := MODALITIES[modality].family):
        raise ValueError(f"{modality}.name={name}: a {found.name} model is for {found.modality} inputs, expected one "
                         f"for {kind} as the {modality} tower")  # fmt: skip
    if name in list_models():
        return create_model(name, seed=seed, **overrides)
    return load(name, **overrides).train()


def fit_to_texts(run: Run, model: Bridge, data: Splits[ImageTexts]) -> Bridge:
    """The model for the texts: a new text tower with a tokenizer of those for training, a pretrained one with a token
    for images."""
    if run.config.model.source:
        return model
    text: Any = model.text.config
    length = prefix_length(model) + run.config.data.max_length
    if not is_new(run, "text"):
        raise SettingsError(f"text.name={run.config.text.name} has a tokenizer without a token for images: give a new "
                            f"text tower, such as llama_nano, or a bridge as model.source=")  # fmt: skip
    texts = [part for row in data.train.texts for one in row for part in (one.prompt, f" {one.target}") if part]
    overrides = run.config.model.overrides
    size = overrides.get("text.vocab_size", overrides.get("vocab_size", DEFAULT_VOCAB_SIZE))
    tokenizer = with_token(new_tokenizer(run, text, list(dict.fromkeys(texts)), size - 1, length), IMAGE_TOKEN)
    fields = {f"text.{name}": value for name, value in token_fields(text, tokenizer).items()}
    image = model.preprocess.image
    try:
        image_token = tokenizer.backend.token_to_id(IMAGE_TOKEN)
        model = build(run, fields | {"text.max_length": length, "image_token_id": image_token})
    except (ValueError, TypeError) as error:
        raise SettingsError(str(error)) from error
    model.preprocess = replace(model.preprocess, image=image, text=tokenizer)
    return model


def with_token(tokenizer: TextProcessor, token: str) -> TextProcessor:
    """The tokenizer with a further special token."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.tokenizer)
    backend.add_special_tokens([token])
    return replace(tokenizer, tokenizer=backend.to_str())


def prefix_length(model: Bridge) -> int:
    """The number of image tokens that stand for one image."""
    if model.config.by == "cross":
        return 1
    size = model.preprocess.image
    pixels = torch.zeros(1, size.channels, *size.size, device=model.device)
    training = model.training
    with torch.no_grad():
        count = len(model.eval().features(pixel_values=pixels))
    model.train(training)
    return count


def layout_of(model: Bridge, max_length: int) -> TokenLayout:
    """How the model reads an image with a prompt, and writes a text of together at most `max_length` tokens."""
    tokenizer = model.preprocess.text
    count, end = prefix_length(model), tokenizer.id("eos")
    pad = tokenizer.id("pad")
    return TokenLayout((model.config.feature_token_id,) * count, end, end if pad is None else pad, count + max_length)
