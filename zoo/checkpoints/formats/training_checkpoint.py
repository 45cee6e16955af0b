"""Checkpoints of training loops: one file that holds the weights of a model beside other values, under other names."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.models.load_report import listed
from zoo.parallel.shard_reader import ShardReader
from zoo.utils.errors import LoadError, did_you_mean, is_number
from zoo.utils.files import only_tensors, open_tensors, read_pickle

# Parts of names that wrappers of torch add, in any order: torch.compile, FSDP, activation checkpointing, and DDP, whose
# "module." counts at the start of a name only.
ANYWHERE = r"_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module"
WRAPPERS = re.compile(rf"^(?:(?:{ANYWHERE}|module)\.)+|(?:{ANYWHERE})\.")
# Prefixes that come from the class around a model, in the order in which hints name them.
PREFIXES = ("base_model.model.", "model.", "backbone.", "encoder.", "net.", "network.")
SHARDED, STATE = "meta.pt", "state_dict."  # of the folder of a sharded run: its other values, and before its names
LORA = re.compile(r"(.*)\.lora_([AB])(?:\.\w+)?\.weight")


@dataclass(frozen=True)
class Selection:
    """Where the weights stand in a checkpoint of another training loop, and the config that describes them.

    config: a folder, or its config file. key: of the weights in the file, "state_dict" or "ema.model". prefix: of the
    names of the model's tensors.
    """

    config: Path | None = None
    key: str | None = None
    prefix: str | None = None

    def __post_init__(self) -> None:
        for name in ("key", "prefix"):
            if not isinstance(value := getattr(self, name), str | None):
                raise ValueError(f"{name}={value!r:.200}: expected a text, such as key='state_dict' or prefix='model.'")

    @property
    def given(self) -> str:
        """The arguments that the caller gave."""
        return ", ".join(f"{name}=" for name in ("config", "key", "prefix") if getattr(self, name) is not None)


# --- Checkpoints of our recipes ---------------------------------------------------------------------------------------


def is_sharded_checkpoint(path: Path) -> bool:
    """Whether it is the folder of a checkpoint of a run whose model was sharded."""
    return path.suffix == ".ckpt" and (path / SHARDED).is_file()


def read_stored(path: Path) -> dict[str, Any]:
    """What a torch file holds, or the folder of a sharded run, whose tensors are read whole."""
    if not is_sharded_checkpoint(path):
        return read_pickle(path)
    reader = ShardReader(path)
    state = {name[len(STATE) :]: reader.read(name) for name in reader.shapes if name.startswith(STATE)}
    return read_pickle(path / SHARDED) | {"state_dict": state}


def own_weights(stored: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights of the model in a checkpoint of a recipe: its moving average, if there is one."""
    state = stored.get("state_dict")
    if not isinstance(state, Mapping):
        raise LoadError(f"{path}: 'state_dict' is a {type(state).__name__}, expected the tensors of a task")
    if odd := next((name for name in state if not isinstance(name, str)), None):
        raise LoadError(f"{path}: 'state_dict' has the key {odd!r}, expected names of tensors")
    prefix = "ema." if any(name.startswith("ema.") for name in state) else "model."  # the average was evaluated
    tensors = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    tensors = only_tensors(tensors, f"{path}: 'state_dict'")
    if any(LORA.fullmatch(name) for name in tensors):
        tensors = _merged(tensors, stored.get("lora_scale"), path)
    return _in_units(tensors, stored["unit"], path) if "unit" in stored else tensors


def _in_units(tensors: dict[str, Tensor], unit: Any, path: Path) -> dict[str, Tensor]:
    """The regression targets were standardized, (target - mean) / std: the output layer gives them as they are."""
    parts = unit if isinstance(unit, list | tuple) and len(unit) == 2 else [None]
    columns = [part if isinstance(part, list | tuple) else [part] for part in parts]  # of several values: lists
    weight = tensors.get("head.proj.weight")
    valid = weight is not None and all(len(column) in (1, len(weight)) for column in columns)
    if weight is None or not valid or not all(is_number(value) for column in columns for value in column):
        raise LoadError(f"{path}: 'unit' is {unit!r:.200}, expected the mean and std of the targets of a regression")
    mean, std = (torch.tensor(column, dtype=torch.float64).to(weight) for column in columns)
    tensors["head.proj.weight"] = weight * std[:, None]
    if "head.proj.bias" in tensors:
        tensors["head.proj.bias"] = tensors["head.proj.bias"] * std + mean
    return tensors


def _merged(tensors: dict[str, Tensor], scale: Any, path: Path) -> dict[str, Tensor]:
    """The tensors with LoRA adapters merged into the weights they belong to: W + scale * B @ A."""
    if not is_number(scale):
        raise LoadError(
            f"{path} holds LoRA adapters and not the scale to merge them with (lora_scale): load the folder 'model' of "
            f"the run, whose weights are merged, or finish the run with this version"
        )
    result = {re.sub(r"\.base_layer(?=\.\w+$)", "", name): t for name, t in tensors.items() if ".lora_" not in name}
    for name, a in tensors.items():
        if (match := LORA.fullmatch(name)) and match[2] == "A":
            b, weight = tensors.get(name.replace(".lora_A", ".lora_B")), result.get(f"{match[1]}.weight")
            if b is None or weight is None or a.ndim != 2 or weight.shape != (len(b), a.shape[1]):
                raise LoadError(f"{path}: the adapter {name!r} has no weight of its shape to merge it into")
            result[f"{match[1]}.weight"] = weight + scale * (b @ a).to(weight.dtype)
    return result


# --- Checkpoints of other training loops ------------------------------------------------------------------------------


def foreign_weights(path: Path, selection: Selection) -> tuple[dict[str, Tensor], list[str]]:
    """(the tensors of the model in a file, under the names of its library; notes)."""
    if path.suffix == ".safetensors":
        values: Any = dict(open_tensors(path))
    else:
        values = read_pickle(path)
    found = groups(values)
    key = selection.key
    if not found:
        keys = listed([repr(key) for key in values]) or "nothing"
        raise LoadError(f"{path} holds 0 groups of tensors: it has {keys}, expected a state dict, or one under a key")
    if key is None:
        if len(found) != 1:
            choices = " or ".join(f"key={name!r}" for name in found)
            raise LoadError(f"{path} holds {len(found)} groups of tensors: choose one, zoo.load(..., {choices})")
        key = next(iter(found))
    if key not in found:
        raise LoadError(
            f"{path} has no tensors under key={key!r}{did_you_mean(key, found)} (it has {listed(list(found))})"
        )
    tensors, notes = found[key], list[str]()
    if unwrapped := [name for name in tensors if WRAPPERS.search(name)]:
        tensors = {WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
        notes.append(f"{len(unwrapped)} names were read without the parts that torch's wrappers add ({unwrapped[0]})")
    if any(LORA.fullmatch(name) for name in tensors):
        raise LoadError(f"{path} holds LoRA adapters: merge them (merge_and_unload) and save the weights of the result")
    if (prefix := selection.prefix) is None:
        return tensors, notes
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not own:
        plain = WRAPPERS.sub("", prefix)  # given as the file has it
        own = tensors if not plain else {n.removeprefix(plain): t for n, t in tensors.items() if n.startswith(plain)}
    if not own:
        raise LoadError(
            f"{path} has no tensor whose name begins with prefix={prefix!r}: it has {listed(list(tensors))}"
        )
    if rest := [name for name in tensors if not name.startswith(prefix)] if len(own) < len(tensors) else []:
        notes.append(f"{len(rest)} tensors without the prefix {prefix!r} were left out ({listed(rest, 4)})")
    return own, notes


def groups(values: Mapping[Any, Any], path: str = "", depth: int = 3) -> dict[str, dict[str, Tensor]]:
    """{key: tensors} of all dicts with tensors under names, `key` being the way to it: "" for the file itself.

    Other values in such a dict are not weights, and are left out.
    """
    found: dict[str, dict[str, Tensor]] = {}
    own = {name: value for name, value in values.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if any(tensor.ndim for tensor in own.values()):
        found[path] = own
    for name, value in values.items() if depth else ():
        if isinstance(name, str) and isinstance(value, Mapping) and name not in ("optimizer", "optimizer_states"):
            found |= groups(value, f"{path}.{name}" if path else name, depth - 1)
    return found


def hint(names: list[str], base: str = "") -> str:
    """What to give as prefix= if many names begin alike, ". Most names begin with 'model.': ... give prefix='model.'".

    base: the prefix of the library's own names, such as "bert.".
    """
    for prefix in PREFIXES:
        if names and sum(name.startswith(prefix) for name in names) * 2 > len(names):
            return f". Most names begin with {prefix!r}: if the model's own do not, give prefix={prefix!r}"
    first = Counter(f"{name.partition('.')[0]}." for name in names)  # such as "student." and "teacher."
    common = [prefix for prefix, count in first.items() if count * 3 > len(names) and prefix != base]
    if not common:
        return ""
    shown = " or ".join(f"prefix={prefix!r}" for prefix in common)
    return f". Many names begin with {' or '.join(map(repr, common))}: if the model's own do not, give {shown}"
