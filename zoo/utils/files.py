"""Files: reading JSON and tensors with errors that name the file; atomic writing is in `zoo.utils.atomic`.

Tensors are read lazily and without copies: safetensors and torch's zip files are memory-mapped. Reading runs no code:
pickles are opened with `weights_only=True`.
"""

import json
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zoo.utils.atomic import atomic_folder as atomic_folder
from zoo.utils.atomic import write_atomic as write_atomic
from zoo.utils.errors import LoadError

# In order of preference: a folder may contain the same weights twice, as older repositories of the hub do.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)


# --- JSON ---------------------------------------------------------------------------------------------------------


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object. Raises LoadError for a file that is missing, damaged or not an object."""
    value = _read_json(Path(path))
    if not isinstance(value, dict):
        raise LoadError(f"{path} contains a JSON {type(value).__name__}, expected an object {{...}}")
    return value


def read_json_list(path: str | Path) -> list[Any]:
    """Read a JSON list. Raises LoadError for a file that is missing, damaged or not a list."""
    value = _read_json(Path(path))
    if not isinstance(value, list):
        raise LoadError(f"{path} contains a JSON {type(value).__name__}, expected a list [...]")
    return value


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LoadError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LoadError(f"{path} is not readable JSON: {error}") from None


def to_json(value: Any) -> str:
    """Indented JSON with a final newline, keys in the order given."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


# --- Tensors ------------------------------------------------------------------------------------------------------


class Tensors(Mapping[str, Tensor]):
    """Named tensors of one or several files, read on access.

    file_of: tensor name -> its file. get: file -> function that reads a tensor of it by name.
    """

    def __init__(self, file_of: dict[str, Path], get: dict[Path, Callable[[str], Tensor]]):
        self.file_of, self.getters = file_of, get

    def __getitem__(self, name: str) -> Tensor:
        path = self.file_of[name]
        try:
            return self.getters[path](name)
        except SafetensorError as error:
            raise LoadError(f"{path} is damaged: tensor {name!r} cannot be read ({error})") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.file_of)

    def __len__(self) -> int:
        return len(self.file_of)


def open_tensors(path: str | Path, device: str | torch.device = "cpu", names: Sequence[str] = WEIGHT_FILES) -> Tensors:
    """Open the tensors of a folder or file: safetensors or torch pickles (`.bin`, `.pth`, `.ckpt`), sharded or not.

    names: the files to look for in a folder, in order of preference.
    Raises LoadError for a file that is missing, truncated, of another format, or a pickle that would run code.
    """
    path = Path(path)
    file = _weight_file(path, names) if path.is_dir() else path
    files = _shards(file) if file.name.endswith(".index.json") else {file: None}
    file_of: dict[str, Path] = {}
    getters: dict[Path, Callable[[str], Tensor]] = {}
    for shard, expected in files.items():
        names, getters[shard] = _open(shard, device)
        if expected is not None and (missing := sorted(expected - set(names))):
            raise LoadError(f"{file} lists {missing[0]!r} in {shard.name}, which does not contain it")
        if duplicates := sorted(file_of.keys() & set(names)):
            raise LoadError(
                f"{duplicates[0]!r} is in both {file_of[duplicates[0]].name} and {shard.name} of {file.parent}"
            )
        file_of |= dict.fromkeys(names, shard)
    return Tensors(file_of, getters)


def _weight_file(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise LoadError(f"{folder} contains no weights: expected one of {', '.join(names)}")


def _shards(index: Path) -> dict[Path, set[str] | None]:
    """Shard -> names of its tensors, from the index."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise LoadError(f"{index} has no 'weight_map'")
    shards: dict[Path, set[str] | None] = {index.parent / name: set() for name in sorted(set(weight_map.values()))}
    for tensor, name in weight_map.items():
        expected = shards[index.parent / name]
        assert expected is not None
        expected.add(tensor)
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise LoadError(f"{index} lists the shard {missing[0]}, which is missing in {index.parent}")
    return shards


def _open(file: Path, device: str | torch.device) -> tuple[list[str], Callable[[str], Tensor]]:
    if not file.is_file():
        raise LoadError(f"{file} does not exist")
    if file.suffix == ".safetensors":
        try:
            handle = safe_open(file, framework="pt", device=str(device))
        except (SafetensorError, OSError) as error:
            raise LoadError(f"{file} is truncated or not a safetensors file: {error}") from None
        return list(handle.keys()), handle.get_tensor
    tensors = {name: value.to(device) for name, value in read_pickle(file).items() if isinstance(value, Tensor)}
    return list(tensors), tensors.__getitem__


def read_pickle(file: str | Path) -> dict[str, Any]:
    """Read a dict that `torch.save` wrote, memory-mapped if the format allows it. Never runs code."""
    file = Path(file)
    with file.open("rb") as stream:
        is_zip = stream.read(4) == b"PK\x03\x04"  # torch < 1.6 wrote bare pickles, which cannot be memory-mapped
    try:
        value = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        if code := re.search(r"GLOBAL (\S+)", str(error)):  # torch's own message advises to run it
            raise LoadError(
                f"{file} would run code when unpickled ({code[1]}), so it is not loaded: save only the tensors, "
                "torch.save(model.state_dict(), file)"
            ) from None
        raise LoadError(f"{file} is damaged, or was not written by torch.save") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        reason = str(error).split("\n")[0] or "empty"
        raise LoadError(f"{file} is truncated or not written by torch.save: {reason}") from None
    if not isinstance(value, dict):
        raise LoadError(f"{file} contains a {type(value).__name__}, expected a dict of tensors")
    return value
