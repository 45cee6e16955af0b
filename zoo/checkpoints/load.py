"""`zoo.load`: any checkpoint that people have, as one of our models.

The model is built on meta, the file's tensors are renamed (not copied) and assigned. What the file says of itself and
what the caller wants otherwise are two configs; only what an override asks for may differ between them.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.checkpoints.detect import read
from zoo.checkpoints.formats import native
from zoo.checkpoints.formats.checkpoint import Checkpoint
from zoo.checkpoints.hub import locate
from zoo.checkpoints.resize import fit_patches
from zoo.models.base import Model
from zoo.models.config import CLASSIFIER_HEADS, Config
from zoo.models.load_report import LoadReport
from zoo.models.mapping.tensors import find_tensors, import_tensors, tie, tied_names
from zoo.models.registry import FILE, build, family, resolve_overrides
from zoo.nn.init import has_rule, initialize
from zoo.preprocessing.audio import AudioProcessor
from zoo.preprocessing.image import pair
from zoo.utils.errors import LoadError
from zoo.utils.files import WEIGHT_FILES, open_tensors, read_pickle


def load(
    source: str | Path,
    *,
    head: Any = FILE,
    num_classes: int | None = None,
    labels: list[str] | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    **overrides: Any,
) -> Model:
    """A model from a folder or a `.ckpt` of ours, a run folder, a folder of transformers or timm, or the hub.

    source: a path (of a config where a folder has open_clip's beside another), or `hf-hub:org/repo`, or `org/repo`.
    revision: of the hub repository.
    head: "classify", "pool" or None (hidden states), default the file's own. num_classes, labels: a classifier of that
    many classes, of those names; drawn anew where the file's has another number.
    dtype: default the file's. overrides: fields of the family's config: image_size, patch_size, in_chans (weights are
    resampled as timm does), attention, dropout, ...

    Returns the model in eval mode; `model.load_report` lists what was dropped, drawn or resampled, and one line on
    stderr says so. Raises LoadError for everything else that does not fit, naming it.
    """
    checkpoint = describe(source, revision)
    if head is not FILE:
        overrides["head"] = head
    config = _wanted(checkpoint, num_classes, labels, overrides)
    model = build(checkpoint.family, checkpoint.config)
    tensors, report = _file_tensors(checkpoint, model, device)
    report.source = str(source)
    if config != checkpoint.config:
        before, model = model, build(checkpoint.family, config)
        if config.head != checkpoint.config.head:
            _change_head(tensors, report, checkpoint, model)
        _adapt(tensors, report, before, model)
    model = _assign(model, tensors, report, dtype, device)
    _dress(model, checkpoint, labels, report)
    if not report.plain:
        print(report, file=sys.stderr)
    return model.eval()


def describe(source: str | Path, revision: str | None = None) -> Checkpoint:
    """What a source holds, before any of its tensors is read."""
    path = locate(source, revision)
    if path.name in ("config.json", "open_clip_config.json") and path.is_file():
        return read(path.parent, path.name)
    if path.is_file():
        return _from_ckpt(path)
    inner = path / "model"
    if not (path / "config.json").is_file() and (inner / "config.json").is_file():
        path = inner  # a run folder: its best model
    return read(path)


def _from_ckpt(path: Path) -> Checkpoint:
    """A checkpoint of a recipe: a torch file with our config.json under "zoo" and the task's weights."""
    if path.suffix not in (".ckpt", ".pt", ".pth"):
        raise LoadError(f"{path} is a file; expected a folder (give {path.parent}), or a .ckpt of ours")
    values = read_pickle(path).get("zoo")
    if not isinstance(values, dict):
        raise LoadError(f"{path} is no checkpoint of this zoo: it has no 'zoo' description")
    return native.from_description(values, path, path)


def _raw(checkpoint: Checkpoint, device: str | torch.device) -> Mapping[str, Tensor]:
    if checkpoint.path.is_dir():
        theirs = checkpoint.format == "open_clip"  # a folder may have the same weights for transformers beside them
        names = [name for name in WEIGHT_FILES if name.startswith("open_clip") == theirs]
        return open_tensors(checkpoint.path, device, names)
    stored = read_pickle(checkpoint.path)
    state = stored.get("state_dict", {})
    prefix = "ema." if any(name.startswith("ema.") for name in state) else "model."  # what the run evaluated
    tensors = {name.removeprefix(prefix): t.to(device) for name, t in state.items() if name.startswith(prefix)}
    if "unit" in stored:  # numbers were learned as (number - mean) / std
        mean, std = stored["unit"]
        tensors["head.proj.weight"] = tensors["head.proj.weight"] * std
        if "head.proj.bias" in tensors:
            tensors["head.proj.bias"] = tensors["head.proj.bias"] * std + mean
    return tensors


# --- Configs ----------------------------------------------------------------------------------------------------------


def _wanted(checkpoint: Checkpoint, num_classes: int | None, labels: list[str] | None, overrides: dict) -> Config:
    """The config that the caller asks for: the file's, with overrides."""
    own: Any = checkpoint.config
    if labels is not None:
        if num_classes not in (None, len(labels)):
            raise ValueError(f"{len(labels)} labels were given for num_classes={num_classes}")
        num_classes = len(labels)
    if num_classes is not None:
        anew = {"problem_type": None} if "problem_type" in own.names() and num_classes != own.num_classes else {}
        overrides = anew | {"num_classes": num_classes} | overrides
        if num_classes and own.head not in CLASSIFIER_HEADS:
            overrides.setdefault("head", "classify")
    if not overrides:
        return own
    config = own.replace(**resolve_overrides(checkpoint.family, overrides))
    if config.head in CLASSIFIER_HEADS and getattr(config, "num_classes", 1) < 1:
        raise ValueError(f"{checkpoint.path} has no classifier: give num_classes= (or labels=) for a fresh one")
    return config


# --- Tensors ----------------------------------------------------------------------------------------------------------


def _file_tensors(
    checkpoint: Checkpoint, model: Model, device: str | torch.device
) -> tuple[dict[str, Tensor], LoadReport]:
    """The file's tensors under our names, every one accounted for by the model that the file itself describes."""
    own, tied = model.state_dict(), tied_names(model)
    for alias in tied:
        del own[alias]
    table = checkpoint.table or "\n".join(f"{name} = {name}" for name in own)
    raw = _raw(checkpoint, device)
    if checkpoint.path.is_file():  # a checkpoint of a run holds a tied tensor under each of its names
        raw = {name: tensor for name, tensor in raw.items() if name not in tied}
    tensors, report = import_tensors(table, own, raw, base=checkpoint.base, source=str(checkpoint.path))
    report.notes += checkpoint.notes
    return tensors, report


def _change_head(tensors: dict[str, Tensor], report: LoadReport, checkpoint: Checkpoint, model: Model) -> None:
    """Put what the file holds of another head in place of its own: the pooler of a bare BERT serves a classifier.

    Tensors that merely have the same name and shape in both heads are not carried over.
    """
    old = {name: tensors.pop(name) for name in list(tensors) if name.startswith("head.")}
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("head.")}
    if checkpoint.mapping is None:
        alike = {checkpoint.config.head, model.config.head} == {"classify", "pool"}
        found = {name: (name, tensor) for name, tensor in old.items() if alike and name in own}
    else:
        raw = _raw(checkpoint, next(iter(tensors.values())).device)
        found = find_tensors(checkpoint.mapping.table_for(model.config), own, raw, base=checkpoint.base)
    tensors |= {name: tensor for name, (_, tensor) in found.items()}
    used = {theirs for theirs, _ in found.values()}
    report.dropped = [name for name in report.dropped if name not in used]
    report.dropped += [name for name in old if name not in found]
    report.mapped += [name for name in found if name not in report.mapped]


def _adapt(tensors: dict[str, Tensor], report: LoadReport, before: Model, model: Model) -> None:
    """Fit the file's tensors to another config: resample, drop what has no place, leave out what is to be drawn."""
    report.resampled += fit_patches(tensors, before, model)
    own = model.state_dict()
    unfit = {name for name, tensor in tensors.items() if name not in own or own[name].shape != tensor.shape}
    absent = own.keys() - tied_names(model).keys() - (tensors.keys() - unfit)
    odd = [name for name in {**own, **tensors} if name in unfit or name in absent]
    if unexplained := [name for name in odd if not _explained(name, before.config, model.config)]:
        said = [_compare(name, own.get(name), tensors.get(name)) for name in unexplained[:8]]
        raise LoadError(f"{report.source} cannot give what the overrides ask for: {'; '.join(said)}")
    report.dropped += [name for name in odd if name in unfit]
    report.initialized += [name for name in odd if name in absent]
    for name in unfit:
        del tensors[name]
    report.mapped = [name for name in report.mapped if name in tensors]


def _explained(name: str, before: Any, after: Any) -> bool:
    """Whether an override may make this tensor differ: a head of another kind or size, another attention."""
    part, _, rest = name.partition(".")
    if part in after.parts:  # a tensor of a tower
        return _explained(rest, before.parts[part], after.parts[part])
    if name.startswith("head."):
        fields = ["head", "num_classes", "vocab_size", "pool", "pooler", "classifier_width", "layer_sum"]
    elif ".mixer." in name or ".cross." in name:
        fields = [field for field in after.names() if "attention" in field or field == "mixer"]
    else:
        return False
    return any(getattr(before, field, None) != getattr(after, field, None) for field in fields)


def _compare(name: str, ours: Tensor | None, theirs: Tensor | None) -> str:
    if ours is None:
        return f"{name} has no place in the model"
    given = "absent" if theirs is None else list(theirs.shape)
    return f"{name} is {given}, expected {list(ours.shape)}"


def _assign(
    model: Model, tensors: dict[str, Tensor], report: LoadReport, dtype: torch.dtype | None, device: str | torch.device
) -> Model:
    """The model with the tensors in it, and what the file does not hold drawn."""
    if dtype is not None:
        tensors = {name: _cast(tensor, dtype) for name, tensor in tensors.items()}
    tensors = {name: _aligned(tensor) for name, tensor in tensors.items()}
    fresh = set(report.initialized)
    if any(not has_rule(model.get_submodule(name.rpartition(".")[0])) for name in fresh):
        with torch.random.fork_rng(devices=[]):  # a part of the user's own has the values that its constructor draws
            torch.manual_seed(0)
            model = build(family(model.family), model.config, "cpu")
    usual = next((tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()), torch.get_default_dtype())
    state = model.state_dict()
    for name in fresh:
        blank = torch.empty_like(state[name], device=device) if state[name].is_meta else state[name].to(device)
        tensors[name] = _cast(blank, usual)
    tied = tied_names(model)
    model.load_state_dict(tensors | {name: tensors[other] for name, other in tied.items()}, assign=True)
    tie(model, tied)
    if fresh:
        initialize(model, 0, only=fresh)
    if lost := [name for name, buffer in model.named_buffers() if buffer.is_meta]:
        raise ValueError(
            f"the buffer {lost[0]} is not part of the state dict, so no file can fill it: make it persistent"
        )
    return model


def _aligned(tensor: Tensor) -> Tensor:
    """A small tensor at an address that is a multiple of 64, as torch's own are; within a file they lie anywhere.

    Products of odd sizes round otherwise from odd addresses, and a loaded model would not be bit-equal to the saved
    one. Large tensors stay in the file's pages: there it makes no difference, and a copy would.
    """
    small = tensor.numel() * tensor.element_size() <= 1 << 18
    return tensor.clone() if small and tensor.data_ptr() % 64 else tensor


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _dress(model: Model, checkpoint: Checkpoint, labels: list[str] | None, report: LoadReport) -> None:
    """What belongs to a model beside its weights: variant, labels, preprocessing of its image size."""
    config: Any = model.config
    classes = getattr(config, "num_classes", None) if config.head in CLASSIFIER_HEADS else None
    model.variant, model.load_report = checkpoint.variant, report
    model.labels = list(labels) if labels else checkpoint.labels
    if model.labels is not None and len(model.labels) != classes:
        model.labels = None
    model.preprocess = checkpoint.preprocess
    before: Any = checkpoint.config
    if checkpoint.preprocess is not None and (config.parts or isinstance(checkpoint.preprocess, AudioProcessor)):
        model.preprocess = checkpoint.preprocess.fitted_to(config)
        for name in config.parts:
            getattr(model, name).preprocess = getattr(model.preprocess, name)
    elif checkpoint.preprocess is not None and hasattr(config, "image_size"):
        model.preprocess = checkpoint.preprocess.fitted(pair(config.image_size), config.in_chans)
        if model.preprocess != checkpoint.preprocess and config.image_size == before.image_size:
            told = "x".join(map(str, checkpoint.preprocess.size))
            report.notes.append(f"the file's preprocessing for {told} pixels was fitted to the model's image size")
