"""`zoo.load`: load a checkpoint of this package or of another library as a model.

The model is built on the meta device; the tensors of the file are renamed (not copied) and assigned. There are two
configs: that of the file, and that with the caller's overrides. Weights may differ only where an override changes them.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.checkpoints.class_names import check_classes, put_in_order
from zoo.checkpoints.detect import PICKLE_ADVICE, file_advice, file_kind, pickle_kind, read
from zoo.checkpoints.formats import dalle_pytorch, extra_files, native, openai_whisper, openfold, torch_geometric
from zoo.checkpoints.formats.checkpoint import Checkpoint
from zoo.checkpoints.formats.training_checkpoint import (
    Selection,
    foreign_weights,
    groups,
    hint,
    is_sharded_checkpoint,
    own_weights,
    read_stored,
)
from zoo.checkpoints.hub import locate
from zoo.checkpoints.load_shards import assign_shards, check_buffers, with_custom_values
from zoo.checkpoints.overrides import fit_overrides
from zoo.models.base import Model
from zoo.models.config import CLASSIFIER_HEADS, Config
from zoo.models.load_report import LoadReport, float16_notes
from zoo.models.mapping.tensor_values import aligned, cast, is_cast, to_one_float_type
from zoo.models.mapping.tensors import LM_HEADS, find_tensors, import_tensors, tie, tied_names, untied
from zoo.models.registry import FILE, build, with_overrides
from zoo.nn.init import initialize
from zoo.parallel.shards import together
from zoo.preprocessing.image import ImageProcessor
from zoo.utils.arguments import check_device, check_dtype, check_path
from zoo.utils.atomic import read_folder
from zoo.utils.errors import LoadError
from zoo.utils.files import WEIGHT_FILES, open_tensors

CONFIGS = ("config.json", "open_clip_config.json")
SUFFIXES = (".ckpt", ".pt", ".pth")
WHOLE = Selection()
# Fields of a config that cannot be greater than the number of bytes of the weights.
WITHIN_WEIGHTS = ("width", "depth", "heads", "kv_heads", "head_dim", "mlp_dim", "in_chans", "vocab_size", "mel_bins")


def load(
    source: str | Path,
    *,
    head: Any = FILE,
    num_classes: int | None = None,
    labels: list[str] | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    config: str | Path | None = None,
    key: str | None = None,
    prefix: str | None = None,
    shard: Callable[[Model], Any] | None = None,
    **overrides: Any,
) -> Model:
    """Load a model from a folder, a run folder or `.ckpt` file, or the Hugging Face Hub.

    source: a folder written by `zoo.save`, transformers, timm, open_clip or torch_geometric; a run folder or `.ckpt`
    file of a recipe; a `.pt` file of OpenAI's Whisper, of dalle-pytorch or of OpenFold (the blocks of its Evoformer);
    or a hub repository, `org/repo` or `hf-hub:org/repo`. For a folder that has open_clip's config and another, the path
    of the config file.
    revision: branch, tag or commit of the hub repository.
    head: "classify", "pool" or None (hidden states); default: the head of the file.
    num_classes, labels: number or names of the classes; the classifier is re-initialized if the file's has another
    number of classes. Names of the file in another order put the rows of its classifier in that order.
    dtype: default: the dtype of the file.
    config, key, prefix: for a file of weights or a checkpoint of another training loop: the folder (or config.json) of
    any format that describes the model, default: the folder of the file; the key of the weights in the file, such as
    "state_dict" or "ema.model"; and the prefix that the loop put before the names of the model's tensors ("model.").
    shard: shards the model in place over the processes, which all call `load`: `partial(zoo.tasks.shard, mesh=mesh)`.
    It gets the model without values, and each process then reads its part of the weights alone.
    overrides: fields of the family's config: image_size, patch_size, in_chans (weights are resampled as timm does),
    attention, dropout, ...

    Returns the model in eval mode. `model.load_report` lists the weights that were dropped, initialized or resampled;
    if there are any, it is also printed to stderr as one line. Raises LoadError, naming the file and the tensor or key,
    for anything else that does not fit.
    """
    if head is not FILE:
        overrides["head"] = head
    check_dtype(dtype)
    device = check_device(device)
    sharded = shard is not None
    with together(sharded):
        path = model_path(source, revision)
        selection = Selection(None if config is None else check_path("config", config), key, prefix)
        folder = path.parent if path.suffix == ".json" else path

        def read() -> tuple[Model, dict[str, Tensor], LoadReport]:
            checkpoint = _describe(path, selection)
            return _load(checkpoint, str(source), num_classes, labels, dtype, device, sharded, overrides)

        model, tensors, report = read_folder(folder, read)
    if shard is not None:
        assign_shards(model, tensors, report, dtype, device, shard)
    report.notes += float16_notes(model)
    if not report.plain:
        print(report, file=sys.stderr)
    return model.eval()


def _load(
    checkpoint: Checkpoint,
    source: str,
    num_classes: int | None,
    labels: list[str] | None,
    dtype: torch.dtype | None,
    device: torch.device,
    sharded: bool,
    overrides: dict[str, Any],
) -> tuple[Model, dict[str, Tensor], LoadReport]:
    """The model, the tensors of the file under its names, and the report. A sharded model has no values yet."""
    config = _target_config(checkpoint, num_classes, labels, overrides)
    raw = _read_tensors(checkpoint, "cpu" if sharded else device)
    _check_sizes(checkpoint, raw)
    model = _build(checkpoint)
    if name := _untied(checkpoint, model, raw):
        checkpoint.config = checkpoint.config.replace(tie_word_embeddings=False)
        ties = overrides.get("tie_word_embeddings", False)
        config = config.replace(tie_word_embeddings=ties)
        if not ties:
            checkpoint.notes.append(f"{name} differs from the word embeddings, so they are not tied as the config says")
        model = _build(checkpoint)
    tensors, report = _file_tensors(checkpoint, model, raw, views=sharded)
    report.source = source
    if config != checkpoint.config:
        before, model = model, build(checkpoint.family, config)
        if config.head != checkpoint.config.head:
            _change_head(tensors, report, checkpoint, model, raw)
        fit_overrides(tensors, report, before, model)
    if labels is not None and not any(name.startswith("head.") for name in report.initialized):
        put_in_order(tensors, report, checkpoint, labels)
    if not sharded:
        report.notes += [] if dtype else to_one_float_type(tensors)
        model = _assign(model, tensors, report, dtype, device)
    _set_metadata(model, checkpoint, labels, report)
    return model, tensors, report


def describe(source: str | Path, revision: str | None = None) -> Checkpoint:
    """Read the description of a source (config, preprocessing, labels, mapping) without its tensors."""
    return _describe(model_path(source, revision))


def model_path(source: str | Path, revision: str | None = None) -> Path:
    """The folder or file of a model; of a run folder, the folder of its best model."""
    path = locate(source, revision)
    best = path / "model"
    return path if (path / "config.json").is_file() or not (best / "config.json").is_file() else best


def _describe(path: Path, selection: Selection = WHOLE) -> Checkpoint:
    if (path.is_file() and path.name not in CONFIGS) or is_sharded_checkpoint(path):
        return _from_file(path, selection)
    if selection.given:
        raise LoadError(f"{selection.given} is for a file of weights or a checkpoint, and {path} is a folder: omit it")
    return read(path.parent, path.name) if path.name in CONFIGS and path.is_file() else read(path)


def _from_file(path: Path, selection: Selection) -> Checkpoint:
    """A checkpoint of a recipe, a torch file with our config.json under "zoo"; or the weights of another loop."""
    folder = path.parent if selection.config is None else selection.config
    if not folder.exists():
        raise LoadError(f"config={str(folder)!r} does not exist: expected the folder of a config.json, or that file")
    if path.suffix not in SUFFIXES and (selection.config is None or path.suffix not in (".bin", ".safetensors")):
        raise LoadError(f"{path} is {file_kind(path)}; expected a folder, or a .ckpt file of a recipe of this package; "
                        f"{file_advice(path)}")  # fmt: skip
    stored = {} if path.suffix == ".safetensors" else read_stored(path)
    if isinstance(values := stored.get("zoo"), dict):
        if selection.given:
            raise LoadError(f"{path} is a checkpoint of a recipe, which describes itself: omit {selection.given}")
        own = native.from_description(values, path, path)
        own.tensors = own_weights(stored, path)
        return own
    for published in (openai_whisper, dalle_pytorch, openfold):
        if (checkpoint := published.read(stored, path, selection.given)) is not None:
            return checkpoint
    if selection.config is None and not any((folder / name).is_file() for name in CONFIGS):
        keys = " or ".join(f"key={name!r}" for name in groups(stored) if name)
        raise LoadError(
            f"{path} is not a checkpoint of this package: it has no 'zoo' entry that describes the model. It is "
            f"{pickle_kind(stored)}; {PICKLE_ADVICE}{f' ({keys})' if keys else ''}"
        )
    tensors, notes = foreign_weights(path, selection)
    checkpoint = read(folder.parent, folder.name, tensors) if folder.is_file() else read(folder, None, tensors)
    if checkpoint.tensors is None:
        checkpoint.tensors = tensors
    checkpoint.notes += notes
    return checkpoint


def _read_tensors(checkpoint: Checkpoint, device: str | torch.device) -> Mapping[str, Tensor]:
    if checkpoint.tensors is not None:
        return {name: t if t.is_meta else t.to(device) for name, t in checkpoint.tensors.items()}
    if checkpoint.format == "torch_geometric":
        return {name: t.to(device) for name, t in torch_geometric.tensors_of(checkpoint).items()}
    is_open_clip = checkpoint.format == "open_clip"  # such a folder may also have the weights for transformers
    names = [name for name in WEIGHT_FILES if name.startswith("open_clip") == is_open_clip]
    return open_tensors(checkpoint.path, device, names)


# --- Configs ----------------------------------------------------------------------------------------------------------


def _target_config(
    checkpoint: Checkpoint, num_classes: int | None, labels: list[str] | None, overrides: dict[str, Any]
) -> Config:
    """The config of the file with the caller's overrides."""
    own: Any = checkpoint.config
    check_classes(labels, num_classes, overrides)
    if labels is not None:
        num_classes = len(labels)
    if num_classes is not None:
        reset = {"problem_type": None} if "problem_type" in own.names() and num_classes != own.num_classes else {}
        overrides = reset | {"num_classes": num_classes} | overrides
        if num_classes and own.head not in CLASSIFIER_HEADS:
            overrides.setdefault("head", "classify")
    if not overrides:
        return own
    if overrides.get("head") in CLASSIFIER_HEADS and overrides.get("num_classes", getattr(own, "num_classes", 1)) == 0:
        raise ValueError(f"{checkpoint.path} has no classifier: give num_classes= (or labels=) to initialize one")
    return with_overrides(checkpoint.family, own, overrides)


# --- Tensors ----------------------------------------------------------------------------------------------------------


def _check_sizes(checkpoint: Checkpoint, raw: Mapping[str, Tensor]) -> None:
    """Raise LoadError for a config of more layers than the file has tensors, or with sizes beyond all of its bytes.

    Building such a model, to compare its tensors with those of the file, would take without end.
    """
    files = set(getattr(raw, "file_of", {}).values()) or {checkpoint.path}
    size = sum(file.stat().st_size for file in files if file.is_file()) or sum(t.nbytes for t in raw.values())
    for tower, config in (checkpoint.config.parts or {"": checkpoint.config}).items():
        for name in WITHIN_WEIGHTS:
            value, most = getattr(config, name, None) or 0, len(raw) if name == "depth" else size
            if value > most:
                has = f"{most} tensors" if name == "depth" else f"{most:,} bytes of weights"
                where = f"{_config_file(checkpoint)} says {name}={value}{f' of the {tower} tower' if tower else ''}"
                raise LoadError(f"{where}, and there are {has}: check that both files are of the same model")


def _build(checkpoint: Checkpoint) -> Model:
    """A model of the file's config, on the meta device."""
    try:
        return build(checkpoint.family, checkpoint.config)
    except (RuntimeError, TypeError, ValueError, ArithmeticError, MemoryError, AssertionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise LoadError(f"{_config_file(checkpoint)} describes a model that cannot be built: {reason}") from None


def _config_file(checkpoint: Checkpoint) -> Path:
    if checkpoint.path.is_file() or is_sharded_checkpoint(checkpoint.path):
        return checkpoint.path
    return checkpoint.path / ("open_clip_config.json" if checkpoint.format == "open_clip" else "config.json")


def _untied(checkpoint: Checkpoint, model: Model, raw: Mapping[str, Tensor]) -> str | None:
    """The name of a head that the config calls tied to the embeddings, and that has values of its own in the file."""
    if not getattr(checkpoint.config, "tie_word_embeddings", False) or checkpoint.config.head not in LM_HEADS:
        return None
    return untied(tied_names(model), checkpoint.table or "", raw, base=checkpoint.base)


def _file_tensors(
    checkpoint: Checkpoint, model: Model, raw: Mapping[str, Tensor], *, views: bool
) -> tuple[dict[str, Tensor], LoadReport]:
    """The tensors of the file under our names. Raises LoadError unless they are exactly those of the file's config."""
    own, tied = model.state_dict(), tied_names(model)
    for alias in tied:
        del own[alias]
    table = checkpoint.table or "\n".join(f"{name} = {name}" for name in own)
    files = set(getattr(raw, "file_of", {}).values())
    file = files.pop() if len(files) == 1 else checkpoint.path
    if checkpoint.tensors is not None and checkpoint.table is None:
        # A checkpoint of a run has a tied tensor under each of its names.
        raw = {name: tensor for name, tensor in raw.items() if name not in tied}
    try:
        tensors, report = import_tensors(table, own, raw, base=checkpoint.base, source=str(file), views=views)
    except LoadError as error:
        more = "" if checkpoint.tensors is None else hint(list(checkpoint.tensors), checkpoint.base)
        raise LoadError(f"{error}. {_expected_model(checkpoint)}{more}") from None
    report.notes += checkpoint.notes
    return tensors, report


def _expected_model(checkpoint: Checkpoint) -> str:
    """The hint of an error about tensors: which config they were compared with."""
    if checkpoint.path.is_file() or is_sharded_checkpoint(checkpoint.path):
        return "Expected the tensors of the model that its 'zoo' entry describes: the file is incomplete or was edited"
    config = _config_file(checkpoint)
    name = checkpoint.architecture or checkpoint.variant or checkpoint.family.name
    return f"Expected the tensors of {name} as {config} describes it: check that both files are of the same model"


def _change_head(
    tensors: dict[str, Tensor], report: LoadReport, checkpoint: Checkpoint, model: Model, raw: Mapping[str, Tensor]
) -> None:
    """Replace the tensors of the file's head by those for the new head, such as BERT's pooler for a classifier.

    Tensors that merely have the same name and shape in both heads are not taken over.
    """
    old = {name: tensors.pop(name) for name in list(tensors) if name.startswith("head.")}
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("head.")}
    if checkpoint.mapping is None:
        alike = {checkpoint.config.head, model.config.head} == {"classify", "pool"}
        found = {name: (name, tensor) for name, tensor in old.items() if alike and name in own}
    else:
        found = find_tensors(checkpoint.mapping.table_for(model.config), own, raw, base=checkpoint.base)
    found |= {name: (name, tensor) for name, tensor in _moved(tensors, old, checkpoint.config.head, model).items()}
    tensors |= {name: tensor for name, (_, tensor) in found.items()}
    used = {theirs for theirs, _ in found.values()}
    report.dropped = [name for name in report.dropped if name not in used]
    report.dropped += [name for name in old if name not in found]
    report.mapped += [name for name in found if name not in report.mapped]


def _moved(tensors: dict[str, Tensor], old: dict[str, Tensor], before: Any, model: Model) -> dict[str, Tensor]:
    """The tensors of a head that stands beside another one in the file or in the model, `Model.heads_beside`, under
    their new names; they are taken out of `tensors` and `old`, the tensors of the head of the file, `before`."""
    found: dict[str, Tensor] = {}
    if (source := model.heads_beside.get(str(model.config.head))) is not None:
        names = [name for name in tensors if name.startswith(f"{source}.")]
        found |= {f"head{name.removeprefix(source)}": tensors.pop(name) for name in names}
    if (target := model.heads_beside.get(str(before))) is not None and getattr(model, target) is not None:
        found |= {f"{target}{name.removeprefix('head')}": old.pop(name) for name in list(old)}
    return found


def _assign(
    model: Model, tensors: dict[str, Tensor], report: LoadReport, dtype: torch.dtype | None, device: str | torch.device
) -> Model:
    """The model with the tensors assigned, and the tensors that the file does not have initialized."""
    if dtype is not None:
        tensors = {name: cast(name, tensor, dtype) for name, tensor in tensors.items()}
    tensors = {name: aligned(tensor) for name, tensor in tensors.items()}
    fresh = set(report.initialized)
    model = with_custom_values(model, fresh)
    floats = (tensor.dtype for name, tensor in tensors.items() if is_cast(name, tensor))
    usual = next(floats, torch.get_default_dtype())
    state = model.state_dict()
    for name in fresh:
        blank = torch.empty_like(state[name], device=device) if state[name].is_meta else state[name].to(device)
        tensors[name] = cast(name, blank, usual)
    tied = tied_names(model)
    model.load_state_dict(tensors | {name: tensors[other] for name, other in tied.items()}, assign=True)
    tie(model, tied)
    if fresh:
        initialize(model, 0, only=fresh)
    check_buffers(model)
    return model


def _set_metadata(model: Model, checkpoint: Checkpoint, labels: list[str] | None, report: LoadReport) -> None:
    """Set what a model has besides weights: variant, labels, and preprocessing for its input size."""
    config: Any = model.config
    classes = getattr(config, "num_classes", None) if config.head in CLASSIFIER_HEADS else None
    model.variant, model.load_report = checkpoint.variant, report
    model.extra_files, model.other_files = extra_files.read(checkpoint.path)
    model.labels = list(labels) if labels else checkpoint.labels
    if model.labels is not None and len(model.labels) != classes:
        model.labels = None
    model.temperature = checkpoint.temperature_of(config, report.initialized)
    saved: Any = checkpoint.preprocess
    model.preprocess = None if saved is None else saved.fitted_to(config)
    model.preprocess, model.extra_files = extra_files.with_templates(model.preprocess, model.extra_files)
    for name in config.parts if saved is not None else ():
        if isinstance(tower := getattr(model, name, None), Model):
            tower.preprocess = getattr(model.preprocess, name)
    unchanged = getattr(config, "image_size", None) == getattr(checkpoint.config, "image_size", None)
    if isinstance(saved, ImageProcessor) and model.preprocess != saved and unchanged:
        size = "x".join(map(str, saved.size))
        report.notes.append(f"the file's preprocessing for {size} pixels was changed to the model's image size")
