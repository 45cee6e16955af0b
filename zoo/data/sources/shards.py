"""WebDataset shards (.tar) of images or audio clips with captions as tables."""

import hashlib
import json
from pathlib import Path
from typing import Any

from zoo.data.sources.fingerprint import note_digest, note_files
from zoo.data.sources.tables import Table
from zoo.preprocessing import image_io
from zoo.utils.errors import DataError

ENDINGS = {"images": tuple(suffix[1:] for suffix in image_io.SUFFIXES),
           "audio": ("wav", "flac", "ogg", "mp3", "opus")}  # fmt: skip


def is_shards(name: str) -> bool:
    """Whether a dataset name means shards: `part-0.tar` or `part-{000..009}.tar`."""
    return name.endswith((".tar", "}"))


def read_shards(urls: str | list[str]) -> Table:
    """Read WebDataset shards as a table with columns `image`, `audio`, `caption` and the keys of JSON files.

    Raises: DataError when webdataset is not installed, or a shard is missing or damaged.
    """
    try:
        import webdataset
    except ImportError:
        raise DataError("reading shards (.tar) needs webdataset, which is not installed: "
                        "pip install 'attention-zoo[shards]', or pip install webdataset") from None  # fmt: skip
    rows = []
    digests: dict[str, Any] = {}
    try:
        for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False):
            rows.append(_shard_row(sample))
            _update_digest(digests.setdefault(sample["__url__"], hashlib.sha256()), sample)
    except (OSError, ValueError) as error:
        raise DataError(f"shards {urls}: {error}") from None
    for url, digest in digests.items():
        file = Path(url.removeprefix("file:")).expanduser()
        note_files([file]) if file.is_file() else note_digest(url, digest.hexdigest())
    where = urls if isinstance(urls, str) else f"{urls[0]} ..."
    if not rows:
        raise DataError(f"shards {where} contain no samples")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table({name: [row.get(name) for row in rows] for name in names}, where)


def _update_digest(digest: Any, sample: dict[str, Any]) -> None:
    """Add a sample to the digest of its shard, which may be a stream that cannot be read again."""
    for name in sorted(name for name in sample if not name.startswith("__")):
        digest.update(f"{sample['__key__']}.{name} {len(sample[name])}\n".encode())
        digest.update(sample[name])


def _shard_row(sample: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for ending, value in sample.items():
        kind = ending.rpartition(".")[2].lower()
        if ending.startswith("__"):
            continue
        if kind == "json":
            row |= {key: inner for key, inner in json.loads(value).items() if key not in row}
        elif kind in ENDINGS["images"]:
            row["image"] = value
        elif kind in ENDINGS["audio"]:
            row["audio"] = value
        elif kind in ("txt", "caption", "text"):
            row["caption"] = value.decode("utf-8").strip()
    return row
