"""The bridge of an image encoder and a text decoder of a run, with its tokenizer and the layout of its tokens."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zoo.checkpoints.bridge import bridge
from zoo.checkpoints.load import load
from zoo.checkpoints.towers import create_or_load
from zoo.data.image_text.datamodule import TokenLayout
from zoo.data.image_text.dataset import ImageTexts
from zoo.data.splits import Splits
from zoo.models.bridge.config import BridgeConfig
from zoo.models.bridge.model import Bridge
from zoo.models.tower_config import EVERYWHERE
from zoo.training.parse import SettingsError
from zoo.training.pretrained import require_tokenizer
from zoo.training.recipes.text import new_tokenizer, token_fields
from zoo.training.recipes.towers import Towers, is_new, tower_overrides
from zoo.training.run import Run

DEFAULT_VOCAB_SIZE = 1000  # of a new tokenizer, unless `text.vocab_size=` is given
OPEN_GATE = 1.0  # gates of new cross-attention beside a new text tower, which has nothing that closed ones would keep
RESAMPLER_TOKENS = 16  # for an image, unless `model.resampler_tokens=` is given
TOWERS: Towers = ("image", "text")


def bridge_model(run: Run) -> Bridge:
    """The model of the settings; a new text tower gets its vocabulary with `fit_to_texts`.

    Raises: SettingsError with the message of `zoo.bridge`, `zoo.load` or `zoo.create_model`.
    """
    try:
        model = build(run)
    except (ValueError, TypeError) as error:
        raise SettingsError(str(error)) from error
    if not is_new(run, "text"):
        c = run.config
        require_tokenizer(c.model.source or c.text.name, getattr(model.preprocess, "text", None))
    return model


def build(run: Run, tokenizer: Any = None, from_data: Mapping[str, Any] | None = None) -> Bridge:
    """The model of the settings. tokenizer, from_data: of a new text tower, and its fields that depend on the data."""
    s = run.config
    if s.model.source:
        model: Any = load(s.model.source, **s.model.overrides).train()
        if not isinstance(model, Bridge):
            raise ValueError(f"model.source={s.model.source} is a {model.family}: expected a bridge of images and "
                             f"text. Give single towers as image.name= and text.name=")  # fmt: skip
        return model
    if s.model.name:
        raise ValueError(f"model={s.model.name}: give the towers as image.name= and text.name=")
    own_fields = [name for name in BridgeConfig.names() if name not in EVERYWHERE]
    fields, own = tower_overrides(run, TOWERS, own_fields)
    for name in TOWERS:
        if not fields[name]["name"]:
            raise ValueError(f"give the {name} tower as {name}.name=: the name of a model, a folder or a hub name")
    if s.by == "resampler":
        own.setdefault("resampler_tokens", RESAMPLER_TOKENS)
    if s.by == "cross" and is_new(run, "text"):
        own.setdefault("gate_value", OPEN_GATE)
    text: Any = fields["text"]
    if tokenizer is not None:
        overrides = text | dict(from_data or {})
        text = create_or_load(overrides.pop("name"), "lm", s.seed, overrides)
        text.preprocess = tokenizer
    locked = {name: getattr(s, name).unlocked for name in TOWERS if getattr(s, name).locked}
    return bridge(image=fields["image"], text=text, by=s.by, locked=locked, seed=s.seed, **own).train()


def fit_to_texts(run: Run, model: Bridge, data: Splits[ImageTexts]) -> Bridge:
    """The model for the texts: a new text tower with a tokenizer of those for training, a pretrained one as it is."""
    if not is_new(run, "text"):
        return model
    text: Any = model.text.config
    texts = [part for row in data.train.texts for one in row for part in (one.prompt, f" {one.target}") if part]
    overrides = run.config.model.overrides
    size = overrides.get("text.vocab_size", overrides.get("vocab_size", DEFAULT_VOCAB_SIZE))
    # a marker is a line of its own before the prompt
    length = (model.config.tokens_per_item or 0) + 2 + run.config.data.max_length
    tokenizer = new_tokenizer(run, text, list(dict.fromkeys(["\n", *texts])), size, length)
    try:
        return build(run, tokenizer, token_fields(text, tokenizer) | {"max_length": length})
    except (ValueError, TypeError) as error:
        raise SettingsError(str(error)) from error


def layout_of(model: Bridge, max_length: int) -> TokenLayout:
    """How the model reads an image with a prompt, as `zoo.generate(model, text=..., images=[...])` gives them, and
    writes a text of together at most `max_length` tokens.

    Raises: SettingsError for images of different numbers of tokens, and without an end token.
    """
    processor, tokenizer = model.preprocess, model.preprocess.text
    count, end = processor.tokens_per_item, tokenizer.id("eos")
    if count is None or end is None:
        raise SettingsError(f"the model has {count} tokens for an image and the end token {end}: expected a fixed "
                            f"number of tokens, and a tokenizer with an end token")  # fmt: skip
    marked = processor.expand(processor.marked("", 1), iter([count]))
    prefix = replace(tokenizer, max_length=count + 16).encode(marked)
    pad = tokenizer.id("pad")
    return TokenLayout(tuple(prefix), end, end if pad is None else pad, len(prefix) + max_length)
