"""Small shards for tests: tar files and parquet files of images, captions and texts."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def png(shade: int, size: int = 8) -> bytes:
    """A gray image whose pixels are `shade`."""
    file = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), shade % 256, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_tar(file: Path, samples: Mapping[str, Mapping[str, bytes]]) -> Path:
    """A tar file of samples: {key: {member: content}}."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for key, members in samples.items():
            for name, content in members.items():
                info = tarfile.TarInfo(f"{key}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file


def image_shards(folder: Path, shards: int = 3, each: int = 20, classes: int = 3, first: int = 0) -> Path:
    """Tar files of images of shade i and class i % classes, i from `first`."""
    for shard in range(shards):
        numbers = range(first + shard * each, first + (shard + 1) * each)
        write_tar(folder / f"part-{shard}.tar", {
            f"{i:05d}": {"png": png(i), "cls": str(i % classes).encode()} for i in numbers})  # fmt: skip
    return folder


def image_parquet(folder: Path, files: int = 3, each: int = 20, classes: int = 3, rows: int = 7) -> Path:
    """The same in parquet files with row groups of `rows` rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        shades = range(number * each, (number + 1) * each)
        table = {"image": [{"bytes": png(i), "path": None} for i in shades], "label": [i % classes for i in shades]}
        pq.write_table(pa.table(table), folder / f"train-{number:05d}-of-{files:05d}.parquet", row_group_size=rows)
    return folder


def caption_shards(folder: Path, shards: int = 2, each: int = 20, words: Sequence[str] = ("gray",)) -> Path:
    """Tar files of images of shade i with a caption that names it."""
    for shard in range(shards):
        write_tar(folder / f"part-{shard}.tar", {
            f"{i:05d}": {"png": png(i), "txt": f"{words[i % len(words)]} shade {i}".encode()}
            for i in range(shard * each, (shard + 1) * each)})  # fmt: skip
    return folder
