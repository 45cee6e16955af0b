"""What a folder holds: whose format it is, and what of it is ours."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import LoadError
from ..files import read_json
from ..models.base import Config, Family


@dataclass
class Checkpoint:
    """A source, described in our words. Its tensors are still on disk and, with a table, under their names.

    dialect: a Dialect, or Towers of several. architecture: what the other library builds it with. notes: what could
    not be taken as it stands.
    """

    path: Path
    format: str
    family: Family
    config: Config
    variant: str | None = None
    preprocess: Any = None
    labels: list[str] | None = None
    table: str | None = None
    base: str = ""
    dialect: Any = None
    architecture: str | None = None
    notes: list[str] = field(default_factory=list)


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
    from . import open_clip, ours, timm, transformers

    readers: dict[str, Any] = {"zoo": ours, "timm": timm, "transformers": transformers, "open_clip": open_clip}
    return readers[detect(folder, file)].read(folder)


def config_of(family: Family, fields: dict[str, Any], source: Path) -> Config:
    """The family's config, its complaints as a LoadError that names the file."""
    try:
        return family.config(**fields)
    except (TypeError, ValueError) as error:
        raise LoadError(f"{source}: {error}") from None
