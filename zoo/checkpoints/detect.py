"""The format of a folder, and its description by the reader of that format."""

from pathlib import Path
from typing import Any

from zoo.checkpoints.formats import native, open_clip, timm, transformers
from zoo.checkpoints.formats.checkpoint import Checkpoint
from zoo.utils.errors import LoadError
from zoo.utils.files import read_json


def detect(folder: Path, file: str | None = None) -> str:
    """ "zoo", "timm", "transformers" or "open_clip". A folder that is none or two of them raises LoadError.

    file: the config that is meant, where a folder has that of open_clip beside another.
    """
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    signs = {
        "zoo": config.get("library_name") == "zoo",
        "timm": "architecture" in config,
        "transformers": "model_type" in config,
        "open_clip": (folder / "open_clip_config.json").is_file(),
    }
    found = [name for name, present in signs.items() if present]
    if file is not None:
        found = [name for name in found if (name == "open_clip") == (file == "open_clip_config.json")]
    if len(found) == 1:
        return found[0]
    if found:
        way = f"; name the file that is meant: {folder / 'open_clip_config.json'}" if "open_clip" in found else ""
        raise LoadError(f"{folder} looks like {' and '.join(found)} at once: its configs contradict each other{way}")
    raise LoadError(
        f"{folder} is no checkpoint that this zoo knows: expected a config.json with library_name 'zoo', timm's "
        f"'architecture' or transformers' 'model_type', or an open_clip_config.json"
    )


def read(folder: Path, file: str | None = None) -> Checkpoint:
    """The description of a folder in any of the formats; file: see `detect`."""
    readers: dict[str, Any] = {"zoo": native, "timm": timm, "transformers": transformers, "open_clip": open_clip}
    return readers[detect(folder, file)].read(folder)
