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
MAX_TEXT_BYTES = 1 << 28  # the largest published tokenizer.json has 35 MB
MAX_JSON_DEPTH = 64


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
    return parse_json(read_text(path), path)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8. Raises LoadError for a file that is missing, unreadable, too large or not UTF-8."""
    try:
        if (size := path.stat().st_size) > MAX_TEXT_BYTES:
            raise LoadError(
                f"{path} has {size:,} bytes, expected at most {MAX_TEXT_BYTES:,}: it is not what it is called"
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LoadError(f"{path} does not exist") from None
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise LoadError(f"{path} is not UTF-8: {error}") from None


def parse_json(text: str, path: str | Path) -> Any:
    """The value of a JSON text. Raises LoadError, naming `path`, for text that is damaged or nested too deep, and for
    a key that is given twice: readers differ in the value that they take."""
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise LoadError(f"{path} is nested too deep, more than {MAX_JSON_DEPTH} levels") from None
    except ValueError as error:  # also a number of too many digits
        raise LoadError(f"{path} is not readable JSON: {error}") from None
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [part for whole in level for part in _parts(whole) if isinstance(part, dict | list)]
        if not level:
            return value
    raise LoadError(f"{path} is nested too deep, more than {MAX_JSON_DEPTH} levels")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return result


def _parts(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


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
        except (SafetensorError, AttributeError, TypeError, OverflowError) as error:  # of a type that torch lacks, too
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
    if graphs := sorted(file.name for file in folder.glob("*.onnx")):
        raise LoadError(
            f"{folder} is an ONNX export ({graphs[0]}), which onnxruntime runs: load what it was exported from"
        )
    raise LoadError(f"{folder} contains no weights: expected one of {', '.join(names)}")


def _shards(index: Path) -> dict[Path, set[str] | None]:
    """Shard -> names of its tensors, from the index."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise LoadError(f"{index} has no 'weight_map'")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name or not 0 < len(name) < 256 or "\\" in name:
            shown = (
                name if isinstance(name, str) and len(name) < 256 else f"{str(name)[:40]}... ({type(name).__name__})"
            )
            raise LoadError(
                f"{index}: {tensor!r} is in {shown!r}, expected the name of a file in the folder of the index"
            )
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
    tensors = only_tensors(read_pickle(file), file)
    return list(tensors), lambda name: tensors[name] if tensors[name].is_meta else tensors[name].to(device)


def only_tensors(values: Mapping[Any, Any], where: object) -> dict[str, Tensor]:
    """The values, of which each must be a tensor with a name. Raises LoadError naming `where` and what is not."""
    for name, value in values.items():
        if not isinstance(name, str):
            raise LoadError(f"{where} has the key {name!r}, expected names of tensors")
        if not isinstance(value, Tensor):
            raise LoadError(f"{where}: {name!r} is a {type(value).__name__}, expected a tensor")
    return dict(values)


def read_pickle(file: str | Path) -> dict[str, Any]:
    """Read a dict that `torch.save` wrote, memory-mapped if the format allows it. Never runs code."""
    file = Path(file)
    try:
        with file.open("rb") as stream:
            is_zip = stream.read(4) == b"PK\x03\x04"  # torch < 1.6 wrote bare pickles, which cannot be memory-mapped
    except OSError as error:
        raise LoadError(f"{file} cannot be read: {error.strerror}") from None
    try:
        value = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        if code := re.search(r"GLOBAL (\S+)", str(error)):  # torch's own message advises to run it
            raise LoadError(
                f"{file} would run code when unpickled ({code[1]}), so it is not loaded: save only the tensors, "
                "torch.save(model.state_dict(), file)"
            ) from None
        raise LoadError(f"{file} is damaged, or was not written by torch.save with pickle protocol 2") from None
    except Exception as error:  # the reader of damaged pickles raises of all kinds
        reason = str(error).split("\n")[0] or "empty"
        raise LoadError(f"{file} is truncated or not written by torch.save: {reason}") from None
    if not isinstance(value, dict):
        raise LoadError(f"{file} contains a {type(value).__name__}, expected a dict of tensors")
    return value
