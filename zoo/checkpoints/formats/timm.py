"""timm's format: config.json with `architecture`, `model_args` and `pretrained_cfg`; weights under timm's names."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo.checkpoints.formats.checkpoint import Checkpoint
from zoo.checkpoints.formats.labels import list_of_names, names_of_rows
from zoo.models.base import Model
from zoo.models.config import CLASSIFIER_HEADS, Config
from zoo.models.family import Family, config_of
from zoo.models.mapping.config_keys import CheckpointMapping, differences, mappings, trainable_instead
from zoo.models.registry import families
from zoo.preprocessing.image import ImageProcessor
from zoo.utils.errors import LoadError, did_you_mean
from zoo.utils.files import read_json


def read(folder: Path) -> Checkpoint:
    file = folder / "config.json"
    values = read_json(file)
    pretrained = values.get("pretrained_cfg", values)  # the oldest files have all keys on one level
    architecture = str(values["architecture"]).split(".")[0]
    family, mapping = _family_of(architecture, file)
    arguments = _arguments(values, pretrained)
    config = config_of(family, _fields(family, mapping, architecture, arguments), file)
    labels, notes = _labels(values, pretrained, config, file)
    return Checkpoint(
        path=folder,
        format="timm",
        family=family,
        config=config,
        variant=architecture,
        preprocess=ImageProcessor.from_timm(pretrained),
        labels=labels,
        mapping=mapping,
        architecture=architecture,
        notes=notes,
    )


def _family_of(architecture: str, file: Path) -> tuple[Family, CheckpointMapping]:
    known = [name for family, _ in mappings(families(), "timm") for name in family.variants]
    for family, mapping in mappings(families(), "timm"):
        if architecture in family.variants and not architecture.startswith(mapping.own_names):
            return family, mapping
    raise LoadError(
        f"{file}: timm's architecture {architecture!r} is not supported (zoo.list_models() lists supported models)"
        f"{did_you_mean(architecture, known)}"
    )


def _arguments(values: Mapping[str, Any], pretrained: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with which timm builds the model: `model_args`, with defaults from `pretrained_cfg`."""
    arguments: dict[str, Any] = {"num_classes": values.get("num_classes", pretrained.get("num_classes", 1000))}
    if "input_size" in pretrained:
        arguments["in_chans"], *arguments["img_size"] = pretrained["input_size"]
    return arguments | values.get("model_args", {})


def _fields(
    family: Family, mapping: CheckpointMapping, architecture: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    start = family.config().to_dict() | dict(mapping.defaults) | family.variants[architecture]
    return mapping.to_ours(start, arguments)


def _labels(
    values: Mapping[str, Any], pretrained: Mapping[str, Any], config: Config, file: Path
) -> tuple[list[str] | None, list[str]]:
    """(names of the classes, notes): in a list, or in an object by the number of their row."""
    key, names = next(
        ((key, part[key]) for part in (values, pretrained) for key in ("label_names", "labels") if part.get(key)),
        ("", None),
    )
    if names is None or config.head not in CLASSIFIER_HEADS:
        return None, []
    read = names_of_rows if isinstance(names, Mapping) else list_of_names
    return read(names, getattr(config, "num_classes", 0), f"{file}: {key}")


def describe(model: Model, family: Family) -> tuple[dict[str, Any], CheckpointMapping, Config]:
    """(config.json, mapping, the config it describes). Raises ValueError naming what timm cannot express."""
    found = family.mappings.get("timm")
    if found is None:
        raise ValueError(f"timm has no {family.name} models: choose another format")
    config, lost = found.rewrite(model.config), {}
    for architecture in _architectures(model, found):
        try:
            arguments = found.to_theirs(config)
            again = family.config(**_fields(family, found, architecture, arguments))
        except ValueError as error:
            lost[architecture] = [str(error)]
            continue
        lost[architecture] = differences(config, again)
        if not lost[architecture]:
            return _config_json(model, architecture, arguments, config), found, config
    least = min(lost.values(), key=len)
    raise ValueError(f"timm cannot express {', '.join(least)}{trainable_instead(config, least)}")


def _architectures(model: Model, mapping: CheckpointMapping) -> Iterable[str]:
    if model.variant and not model.variant.startswith(mapping.own_names):
        yield model.variant
    yield from mapping.architectures


def _config_json(model: Model, architecture: str, arguments: dict[str, Any], config: Any) -> dict[str, Any]:
    classes = arguments["num_classes"]
    pretrained: dict[str, Any] = {"tag": "", "custom_load": False, "fixed_input_size": True, "num_classes": classes}
    pretrained |= {"input_size": [arguments["in_chans"], *arguments["img_size"]]}
    pretrained |= {"first_conv": "patch_embed.proj", "classifier": "head"}
    if model.preprocess is not None:
        pretrained |= model.preprocess.to_timm()
    named = {"label_names": model.labels} if model.labels else {}
    return {
        "architecture": architecture,
        "num_classes": classes,
        "num_features": config.width,
        **named,
        "model_args": arguments,
        "pretrained_cfg": pretrained,
    }
