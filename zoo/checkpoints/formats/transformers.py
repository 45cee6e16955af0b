"""transformers' format: config.json with `model_type` and `architectures`, processor files, weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from zoo.checkpoints.formats import (
    feature_extractor,
    generation_config,
    sentence_transformers,
    tokenizer,
    transformers_bridge,
    transformers_multi_tower,
)
from zoo.checkpoints.formats.checkpoint import Checkpoint
from zoo.checkpoints.formats.labels import names_of_rows
from zoo.models.base import Model
from zoo.models.config import CLASSIFIER_HEADS, Config, ProblemType
from zoo.models.family import Family, config_of
from zoo.models.mapping.bridge import BridgeMapping
from zoo.models.mapping.config_keys import CheckpointMapping, differences, mappings, trainable_instead
from zoo.models.mapping.multi_tower import MultiTowerMapping
from zoo.models.mapping.nested_keys import NestedMapping
from zoo.models.mapping.tensors import config_as_tied, theirs_of
from zoo.models.names import missing_family
from zoo.models.registry import families
from zoo.preprocessing.image import ImageProcessor, pair
from zoo.preprocessing.modality import of_family
from zoo.utils.errors import LoadError, did_you_mean
from zoo.utils.files import open_tensors, read_json

PROJ = "head.proj.weight"  # our classifier, whose rows are the classes


def read(folder: Path, weights: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """Read a folder of transformers. weights: instead of those in the folder."""
    file = folder / "config.json"
    values, generation = read_json(file), generation_config.read(folder)
    family, mapping, architecture = _kind(values, file)
    if "decoder_start_token_id" in family.config.names():
        values = generation_config.with_ids(values, generation)
    elif generation and "eos_token_id" in generation:  # it takes precedence, as in transformers
        values["eos_token_id"] = generation["eos_token_id"]
    refuse_quantized(values, file)
    if isinstance(mapping, MultiTowerMapping):
        return transformers_multi_tower.read(folder, values, family, mapping)
    if isinstance(mapping, BridgeMapping):
        return transformers_bridge.read(folder, values, family, mapping)
    fields = _fields(family, mapping, architecture, values, _rows(folder, weights, mapping, architecture))
    fields |= {name: _has(folder, weights, mapping, tensor) for name, tensor in mapping.if_in_file.items()}
    if mapping.embeds is not None and (embedding := sentence_transformers.read(folder)):
        fields |= {**mapping.embeds, **embedding}
    config = config_of(family, fields, file)
    preprocess, notes = _preprocess(folder, config, family, mapping)
    if mapping.embeds is None and (folder / "modules.json").is_file():
        notes.append(
            f"the layers after the transformer in modules.json of sentence-transformers are not supported for "
            f"{mapping.name} models: the model has head={config.head!r}"
        )
    notes += generation_config.notes(values, generation, family, config)
    labels, more = _labels(values, config, file)
    return Checkpoint(
        path=folder,
        format="transformers",
        family=family,
        config=config,
        preprocess=preprocess,
        labels=labels,
        base=mapping.base,
        mapping=mapping,
        architecture=architecture,
        notes=notes + more,
    )


def _kind(values: Mapping[str, Any], file: Path) -> tuple[Family, CheckpointMapping, str]:
    """(family, mapping, class name of the weights) of a config. Raises LoadError if it is not supported."""
    known = {mapping.name: (family, mapping) for family, mapping in mappings(families(), "transformers")}
    if (model_type := str(values["model_type"])) not in known:
        near = "" if missing_family(model_type) else did_you_mean(model_type, known)
        raise LoadError(
            f"{file}: transformers' model_type {model_type!r} is not supported (supported: {', '.join(known)}){near}"
        )
    family, mapping = known[model_type]
    classes, names = ", ".join(mapping.heads), values.get("architectures") or mapping.assumes
    if names and not (isinstance(names, list | tuple) and isinstance(names[0], str)):
        raise LoadError(f"{file}: architectures is {names!r:.200}, expected a list with the name of a class")
    if not names:
        raise LoadError(f"{file} lacks 'architectures', the class of the weights: add one of {classes}")
    if names[0] not in mapping.heads:
        raise LoadError(
            f"{file}: transformers' class {names[0]!r} (model_type {model_type!r}) is not supported "
            f"(supported: {classes})"
        )
    return family, mapping, names[0]


def refuse_quantized(values: Mapping[str, Any], file: Path) -> None:
    """Raise LoadError for weights that a method of quantization packed: they are not numbers of a float type."""
    settings = next(
        (found for key in ("quantization_config", "compression_config") if (found := values.get(key))), None
    )
    if settings is None:
        return
    known = settings if isinstance(settings, Mapping) else {}
    bits = next((f"{n}-bit " for n in (8, 4) if known.get(f"load_in_{n}bit")), "")
    method = f"{bits}{known.get('quant_method') or ('bitsandbytes' if bits else 'an unnamed method')}"
    raise LoadError(
        f"{file} has a quantization_config: the weights are quantized with {method}, which is not supported. Load the "
        f"original weights in float32, float16 or bfloat16, or convert these with transformers: "
        f"AutoModel.from_pretrained(FOLDER).dequantize().save_pretrained(NEW)"
    )


def _rows(
    folder: Path, weights: Mapping[str, Tensor] | None, mapping: CheckpointMapping, architecture: str
) -> int | None:
    """The number of rows of the classifier in the file; None if it has no classifier."""
    head = mapping.heads[architecture].get("head")
    if head not in CLASSIFIER_HEADS:
        return None
    tensors = _tensors(folder, weights)
    name = theirs_of(mapping.table + mapping.head_tables.get(head, ""), PROJ, tensors, mapping.base)
    shape = () if name is None else tensors[name].shape
    return shape[0] if shape else None


def _has(folder: Path, weights: Mapping[str, Tensor] | None, mapping: CheckpointMapping, tensor: str) -> bool:
    """Whether the file has the tensor that we call `tensor`."""
    return theirs_of(mapping.table, tensor, _tensors(folder, weights), mapping.base) is not None


def _tensors(folder: Path, weights: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
    """The weights, by default those of the folder; none if they cannot be read."""
    try:
        return open_tensors(folder) if weights is None else weights
    except LoadError:  # raised again when the weights are read; without them there is a description
        return {}


def _fields(
    family: Family, mapping: CheckpointMapping, architecture: str, values: Mapping[str, Any], rows: int | None = None
) -> dict[str, Any]:
    """Our fields for a config. rows: of the classifier in the file; default: as the config says."""
    start = family.config().to_dict() | dict(mapping.defaults)
    fields = mapping.to_ours(start, values) | dict(mapping.heads[architecture])
    if "num_classes" in fields:
        fields["num_classes"] = (rows or _class_count(values)) if fields["head"] in CLASSIFIER_HEADS else 0
    known = fields.pop("problem_type", None)  # of the family, for files without it
    if fields.get("head") == "classify" and "problem_type" in family.config.names():
        fields["problem_type"] = _problem_type(values, fields["num_classes"]) or known
    return fields


def _problem_type(values: Mapping[str, Any], classes: int) -> str | None:
    """transformers' rule in pipelines: without a problem_type, a single output is a binary logit (cross-encoders)."""
    problem = values.get("problem_type")
    known = get_args(ProblemType)
    if problem not in (None, *known):
        raise LoadError(f"config.json has problem_type={problem!r}, expected one of {', '.join(known)}")
    return problem or ("multi_label_classification" if classes == 1 else None)


def _class_count(values: Mapping[str, Any]) -> int:
    """transformers' rule for a model without weights: as many as id2label has names, else num_labels, else two."""
    names = values.get("id2label")
    return len(names) if names and isinstance(names, Mapping) else values.get("num_labels") or 2


def _labels(values: Mapping[str, Any], config: Any, file: Path) -> tuple[list[str] | None, list[str]]:
    names = values.get("id2label")
    if names is None or config.head not in CLASSIFIER_HEADS:
        return None, []
    return names_of_rows(names, config.num_classes, f"{file}: id2label")


def _preprocess(folder: Path, config: Any, family: Family, mapping: CheckpointMapping) -> tuple[Any, list[str]]:
    if isinstance(mapping, NestedMapping):
        return transformers_multi_tower.read_preprocess(folder, config, mapping.tokenizer)
    record = of_family(family.modality)
    kind = "" if record is None else record.transformers_processor
    if kind == "tokenizer":
        return tokenizer.read(folder, config, mapping.name)
    if kind == "feature_extractor":
        return feature_extractor.read(folder, config)
    file = folder / "preprocessor_config.json"
    if kind != "image_processor" or not file.is_file():
        return None, []
    try:
        return ImageProcessor.from_transformers(read_json(file), pair(config.image_size), config.in_chans), []
    except LoadError as error:
        return None, [f"model.preprocess is None: {error}"]


def describe(model: Model, family: Family) -> tuple[dict[str, Any], CheckpointMapping, Config]:
    """(config.json, mapping, the config it describes). Raises ValueError naming what transformers cannot express."""
    lost: dict[str, list[str]] = {}
    for _, mapping in mappings(iter([family]), "transformers"):
        if isinstance(mapping, MultiTowerMapping):
            return transformers_multi_tower.describe(model, family, mapping)
        if isinstance(mapping, BridgeMapping):
            return transformers_bridge.describe(model, family, mapping)
        config = mapping.rewrite(config_as_tied(model))
        written = [fields.get("head") for fields in mapping.heads.values()]
        if config.head in mapping.bare_heads and config.head not in written:  # bare models return the tokens before it
            config = config.replace(head=None)
        for architecture, fields in mapping.heads.items():
            if fields.get("head") != config.head:
                continue
            try:
                values = mapping.to_theirs(config) | _head(model, config)
                in_file = {name: getattr(config, name) for name in mapping.if_in_file}
                again = family.config(**_fields(family, mapping, architecture, values) | in_file)
            except ValueError as error:
                lost[architecture] = [str(error)]
                continue
            lost[architecture] = differences(config, again)
            if not lost[architecture]:
                start = {"architectures": [architecture], "model_type": mapping.name, "dtype": str(model.dtype)[6:]}
                return start | values, mapping, config
    if not lost:
        raise ValueError(f"transformers has no {family.name} model with head={model.config.head!r}")
    nearest = min(lost, key=lambda architecture: len(lost[architecture]))
    instead = trainable_instead(model.config, lost[nearest])
    raise ValueError(f"transformers' {nearest} cannot express {', '.join(lost[nearest])}{instead}")


def _head(model: Model, config: Any) -> dict[str, Any]:
    if config.head not in CLASSIFIER_HEADS:
        return {}
    labels = model.labels or [f"LABEL_{i}" for i in range(config.num_classes)]
    ids = {str(i): label for i, label in enumerate(labels)}
    problem = config.resolved_problem_type
    usual = problem == "single_label_classification" and getattr(config, "problem_type", None) is None
    extra = {"problem_type": problem} if config.head == "classify" and not usual else {}
    return {"id2label": ids, "label2id": {label: int(i) for i, label in ids.items()}} | extra
