"""Pretrained classifiers for the classes of the data, of every modality: `model.source=`."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

from zoo.checkpoints.class_names import reordered
from zoo.checkpoints.load import describe, load
from zoo.models.base import Model
from zoo.models.config import CLASSIFIER_HEADS
from zoo.models.load_report import listed
from zoo.models.registry import family
from zoo.preprocessing.audio import AudioProcessor
from zoo.preprocessing.text import TextProcessor
from zoo.training.parse import SettingsError
from zoo.utils.console import console
from zoo.utils.escape import printable


def load_classifier(source: str, overrides: Mapping[str, Any], head: str = "classify") -> Model:
    """The model of a checkpoint as a classifier (of inputs, or with head="token" of words) in training mode.

    The checkpoint may have any head: if it is not that of such a classifier, the last layer is new, with an arbitrary
    number of classes until `set_classes`.
    Raises: ValueError, LoadError of `zoo.load`.
    """
    config: Any = describe(source).config
    has_classes = config.head == head or config.parts  # models of several towers have no classifier
    fields = {"head": head} if has_classes else {"head": head, "num_classes": 2}
    return load(source, **fields | dict(overrides)).train()


def set_classes(model: Model, classes: Sequence[str], seed: int) -> bool:
    """Give a loaded model the classes of the data; returns whether its last layer was kept.

    The last layer of a classifier of the same classes is kept, with its rows in the order of `classes`. Otherwise it
    is initialized from `seed`, and what it replaces is printed.
    """
    kept = model.labels is not None and sorted(model.labels) == sorted(classes)
    if kept:
        own, weights = cast(list[str], model.labels), dict(model.named_parameters())
        with torch.no_grad():
            for name, rows in reordered(weights, family(model.family), model.config, own, classes).items():
                weights[name].copy_(rows)
    else:
        before = _classes_of(model)
        model.reset_head(len(classes), seed=seed)
        console().print("[bold]head      [/bold]", end="")
        text = f"new, for {len(classes)} classes: {listed(list(classes))}{before}"
        console().print(printable(text), markup=False)
    model.labels = list(classes)
    return kept


def has_new_head(model: Model) -> bool:
    """Whether a loaded model has a head with random weights, because its checkpoint has none or another one."""
    return any(name.startswith("head.proj") for name in model.load_report.initialized)


def _classes_of(model: Model) -> str:
    """The classes that a new last layer replaces, in words; empty if the weights have no classifier."""
    config: Any = model.config
    if config.head not in CLASSIFIER_HEADS or has_new_head(model):
        return ""
    names = f" ({listed(model.labels)})" if model.labels else ""
    return f"; it replaces that for {config.num_classes:,} classes{names}"


def require_tokenizer(name: str, processor: Any) -> None:
    """Raise SettingsError if pretrained weights have no tokenizer. name: of the weights, for the message."""
    _require(name, processor, TextProcessor, "tokenizer", "tokenizer.json")


def require_audio_processor(name: str, processor: Any, kind: type = AudioProcessor) -> None:
    """Raise SettingsError if pretrained weights have no audio preprocessing of this kind."""
    _require(name, processor, kind, "audio preprocessing", "preprocessor_config.json")


def _require(name: str, processor: Any, kind: type, what: str, file: str) -> None:
    if not isinstance(processor, kind):
        raise SettingsError(f"{name} has no {what}: expected a {file} in its folder")
