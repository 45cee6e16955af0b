"""The weights of a folder: one safetensors file, or several and their index, written tensor by tensor."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from torch import Tensor

from zoo.models.base import Model
from zoo.models.mapping.tensor_values import aligned
from zoo.models.mapping.tensors import config_as_tied, tie, tied_names
from zoo.models.registry import build, family
from zoo.parallel.shards import is_sharded
from zoo.utils.files import open_tensors, to_json
from zoo.utils.safetensors_file import Spec, file_order, index, write_tensors

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def check_size(name: str, value: int | str) -> int:
    """A number of bytes, given as one or as "5GB". Raises ValueError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]B|)", str(value))
    if isinstance(value, bool) or not isinstance(value, int | str) or not found or float(found[1]) <= 0:
        raise ValueError(f"{name}={value!r:.200}: expected a number of bytes, or a text such as '5GB' or '200MB'")
    return int(float(found[1]) * UNITS[found[2]])


def fits(tensor: Tensor, expected: Tensor) -> bool:
    """Whether the shapes are equal. FSDP2 cannot shard scalars, so a sharded one may be a vector of one value."""
    return tensor.shape == expected.shape or (is_sharded([tensor]) and tensor.numel() == expected.numel() == 1)


def specs_of(model: Model, tensors: Mapping[str, Tensor]) -> dict[str, Spec]:
    """Types and shapes of the tensors of a model in a file; of sharded scalars, too."""
    shapes = {name: x.shape for name, x in build(family(model.family), model.config).state_dict().items()}
    return {name: Spec(tensor.dtype, tuple(shapes[name])) for name, tensor in tensors.items()}


def order_of_files(specs: Mapping[str, Spec], files: Mapping[str, Sequence[str]]) -> list[str]:
    """The names of the tensors in the order in which `write_files` takes them."""
    return [name for names in files.values() for name in file_order({name: specs[name] for name in names})]


def write_files(folder: Path, specs: Mapping[str, Spec], files: Mapping[str, Sequence[str]],
                tensors: Iterator[tuple[str, Tensor]]) -> None:  # fmt: skip
    """Write the files of weights, and their index if there are several.

    files: names of the tensors by file, of `split_files`. tensors: in the order of `order_of_files`; one of a single
    value may have another shape than described.
    """
    shaped = ((name, x.reshape(specs[name].shape) if x.numel() == 1 else x) for name, x in tensors)
    for file, names in files.items():
        described = {name: specs[name] for name in names}
        write_tensors(folder / file, described, islice(shaped, len(names)), {"format": "pt"})
    if len(files) > 1:
        text = to_json(index(specs, files))
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def reopened(model: Model, folder: Path) -> Model:
    """The model that `zoo.load` reads from a folder that was just written, with its weights memory-mapped."""
    found = build(family(model.family), config_as_tied(model))
    tied = tied_names(model)
    tensors = {name: aligned(tensor) for name, tensor in open_tensors(folder).items()}
    found.load_state_dict(tensors | {name: tensors[other] for name, other in tied.items()}, assign=True)
    tie(found, tied)
    found.preprocess = model.preprocess
    return found.eval()
