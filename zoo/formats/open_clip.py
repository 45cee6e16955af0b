"""open_clip's folders: open_clip_config.json with `model_cfg` and `preprocess_cfg`."""

from pathlib import Path

from ..errors import LoadError
from ..files import read_json
from .checkpoint import Checkpoint


def read(folder: Path) -> Checkpoint:
    file = folder / "open_clip_config.json"
    parts = ", ".join(read_json(file).get("model_cfg", {}))
    raise LoadError(f"{file}: no family of this zoo reads open_clip's models ({parts}) yet")
