"""What overrides of a config change in the tensors of a file: resampled, dropped, to be initialized, or refused."""

from typing import Any

from torch import Tensor

from zoo.checkpoints.resize import fit_patches
from zoo.models.base import Model
from zoo.models.load_report import LoadReport
from zoo.models.mapping.config_keys import differences
from zoo.models.mapping.tensors import tied_names
from zoo.utils.errors import LoadError


def fit_overrides(tensors: dict[str, Tensor], report: LoadReport, before: Model, model: Model) -> None:
    """Fit the tensors of the file to another config: resample, drop unused ones, list those to initialize."""
    report.resampled += fit_patches(tensors, before, model)
    own = model.state_dict()
    tied = tied_names(model)
    report.dropped += [name for name in tied if tensors.pop(name, None) is not None]  # an override ties them
    unfit = {name for name, tensor in tensors.items() if name not in own or own[name].shape != tensor.shape}
    absent = own.keys() - tied.keys() - (tensors.keys() - unfit) - set(report.initialized)  # which a file may lack
    odd = [name for name in {**own, **tensors} if name in unfit or name in absent]
    if unexplained := [name for name in odd if not _is_explained(name, before.config, model.config)]:
        mismatches = [_mismatch(name, own.get(name), tensors.get(name)) for name in unexplained[:8]]
        changed = ", ".join(differences(model.config, before.config))
        raise LoadError(
            f"{report.source} has no weights for the overrides {changed}: {'; '.join(mismatches)}. Omit them, or "
            f"create a new model with zoo.create_model"
        )
    report.dropped += [name for name in odd if name in unfit]
    report.initialized += [name for name in odd if name in absent]
    for name in unfit:
        del tensors[name]
    report.mapped = [name for name in report.mapped if name in tensors]


def _is_explained(name: str, before: Any, after: Any) -> bool:
    """Whether an override explains that a tensor differs: another kind or size of head, another attention."""
    part, _, rest = name.partition(".")
    if part in after.parts:  # a tensor of a tower
        return _is_explained(rest, before.parts[part], after.parts[part])
    fields: list[str] = []
    if name.startswith("head."):
        fields = ["head", "num_classes", "vocab_size", "pool", "pooler", "classifier_width", "layer_sum"]
    elif part in after.names():  # a module that a field of its name adds
        fields = [part]
    elif part == "decoder" and getattr(after, "decoder_depth", None) == 0:  # the encoder alone
        fields = ["decoder_depth"]
    elif ".mixer." in name or ".cross." in name:
        fields = [field for field in after.names() if "attention" in field or field == "mixer"]
    return any(getattr(before, field, None) != getattr(after, field, None) for field in fields)


def _mismatch(name: str, ours: Tensor | None, theirs: Tensor | None) -> str:
    if ours is None:
        return f"{name} has no place in the model"
    found = "absent" if theirs is None else list(theirs.shape)
    return f"{name} is {found}, expected {list(ours.shape)}"
