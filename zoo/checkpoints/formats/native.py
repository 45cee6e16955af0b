"""Our own format: config.json, model.safetensors and golden.safetensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.checkpoints.formats.checkpoint import Checkpoint
from zoo.models.base import Model
from zoo.models.config import CLASSIFIER_HEADS, to_json_types
from zoo.models.mapping.tensors import config_as_tied, tied_names
from zoo.models.registry import family
from zoo.preprocessing.auto import processor_from_dict
from zoo.preprocessing.bridge import BridgeProcessor
from zoo.preprocessing.text import TextProcessor
from zoo.utils import renamed
from zoo.utils.errors import LoadError, check_keys, is_number
from zoo.utils.files import read_json
from zoo.utils.version import __version__

# Format 1 has other names for some fields; they are renamed when it is read. Format 3 has a temperature; a model
# without one is written in format 2, which earlier versions read.
FORMAT = 3
KEYS = ("library_name", "format", "family", "variant", "config", "preprocess", "labels", "tied")


def describe(model: Model, *, apart: bool = False) -> dict[str, Any]:
    """The contents of config.json. apart: without the files of the preprocessing (a tokenizer), saved separately."""
    preprocess = None
    if model.preprocess is not None:
        model.preprocess.check(model.config)
        files = {} if apart else model.preprocess.files() | template_files(model.preprocess)
        preprocess = model.preprocess.to_dict() | ({"files": files} if files else {})
    temperature = {} if model.temperature == 1.0 else {"temperature": model.temperature}
    return {
        "library_name": "zoo",
        "format": FORMAT if temperature else 2,
        "family": model.family,
        "variant": model.variant,
        "config": to_json_types(config_as_tied(model).to_dict()),  # plain, so that a .ckpt loads with weights_only
        "preprocess": preprocess,
        "labels": model.labels,
        "tied": tied_names(model),
        **temperature,
    }


def template_files(preprocess: Any) -> dict[str, str]:
    """The files of chat templates of a text model's processor, or of a bridge's; others have none."""
    text = preprocess.text if isinstance(preprocess, BridgeProcessor) else preprocess
    return text.template_files() if isinstance(text, TextProcessor) else {}


def read(folder: Path) -> Checkpoint:
    return from_description(read_json(folder / "config.json"), folder, folder / "config.json")


def from_description(values: Mapping[str, Any], path: Path, file: Path) -> Checkpoint:
    """A Checkpoint from the contents of config.json. Raises LoadError for unknown and missing keys at any level.

    path: folder or `.ckpt` file of the weights. file: the file to name in errors.
    """
    number = values.get("format", FORMAT)
    if isinstance(number, int) and number > FORMAT:
        raise LoadError(
            f"{file} has format {number}: it was saved by a newer version of attention-zoo, and version "
            f"{__version__} reads formats up to {FORMAT}; upgrade with pip install --upgrade attention-zoo"
        )
    if type(number) is not int or number not in range(1, FORMAT + 1):
        raise LoadError(f"{file} has format {number!r}, expected a whole number from 1 to {FORMAT}: it is damaged")
    check_keys(file, values, (*KEYS, "temperature") if number > 2 else KEYS)
    if not isinstance(values["variant"], str | None):
        raise LoadError(f"{file}: 'variant' is {values['variant']!r:.200}, expected null or the name of a model")
    if number == 1:
        values = _from_format_1(values, file)
    try:
        found = family(values["family"])
        config = found.config.from_dict(values["config"])
        preprocess = processor_from_dict(values["preprocess"], path)
        if preprocess is not None:
            preprocess.check(config)
    except (TypeError, ValueError) as error:
        raise LoadError(f"{file}: {error}") from None
    labels, temperature = _labels(values["labels"], config, file), values.get("temperature", 1.0)
    if not is_number(temperature) or temperature <= 0:
        raise LoadError(f"{file}: 'temperature' is {temperature!r:.200}, expected a finite number above 0")
    return Checkpoint(path, "zoo", found, config, values["variant"], preprocess, labels, temperature)


def _labels(labels: Any, config: Any, file: Path) -> list[str] | None:
    if labels is None:
        return None
    if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
        raise LoadError(f"{file}: 'labels' is {labels!r:.200}, expected null or a list of the names of the classes")
    classes = config.num_classes if config.head in CLASSIFIER_HEADS else len(labels)
    if len(labels) != classes:
        raise LoadError(f"{file}: 'labels' has {len(labels)} names, and the classifier {classes} rows: it was edited")
    return labels


def _from_format_1(values: Mapping[str, Any], file: Path) -> dict[str, Any]:
    for name in ("config", "preprocess"):
        if not isinstance(values[name], Mapping | None):
            raise LoadError(f"{file}: {name!r} is a {type(values[name]).__name__}, expected an object {{...}}")
    config, preprocess = values["config"], values["preprocess"]
    return {
        **values,
        "config": config and renamed.fields(config),
        "preprocess": preprocess and renamed.processor(preprocess),
    }
