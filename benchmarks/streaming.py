"""Data read piece by piece: one pass over shards larger than a batch in bounded memory, and training against memory.

    python benchmarks/streaming.py [gigabytes=2] [size=128] [images=10000] [steps=2] [rounds=5] [batch=128]

pass: tar shards of `gigabytes` of PNG images of `size` pixels, read and decoded in the keyed order of training; MB/s,
and the peak of the memory in each quarter of the pass above that before it. The same for a quarter as much in parquet
files, and for tokens in rows of 1,024.
training: steps of vit_cifar_tiny on CIFAR-like images (32 x 32) from shards against the same images in memory; and the
loaders alone. Target: 0.8 of the speed.
The shards are made in a temporary folder, and deleted.
"""

import io
import os
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from _measure import machine, options, paired, record, status_bytes
from PIL import Image

import zoo
from zoo.data import DataSettings, ImageDataModule, ImageSplits, load_images
from zoo.data.config import StreamSettings
from zoo.data.image.dataset import ImageDataset
from zoo.data.text.corpus import characters
from zoo.data.text.documents import find_documents
from zoo.data.text.packed import PackedTextDataModule
from zoo.tasks import ClassificationTask
from zoo.tasks.optimizer import adamw, param_groups

POOL = 400  # different images, which the shards repeat
SHARD = 100_000_000  # bytes of a shard
LENGTH = 1024


def pngs(size: int) -> list[bytes]:
    """Different images of noise, which PNG cannot compress."""
    generator, found = np.random.default_rng(0), []
    for _ in range(POOL):
        file = io.BytesIO()
        pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "PNG", compress_level=1)
        found.append(file.getvalue())
    return found


def write_tars(folder: Path, images: list[bytes], count: int) -> int:
    """`count` images with classes in tar files of 100 MB; returns their bytes."""
    folder.mkdir()
    each = max(1, SHARD // len(images[0]))
    for first in range(0, count, each):
        with tarfile.open(folder / f"part-{first // each:05d}.tar", "w") as tar:
            for i in range(first, min(first + each, count)):
                for name, content in (("png", images[i % POOL]), ("cls", b"%d" % (i % 10))):
                    info = tarfile.TarInfo(f"{i:08d}.{name}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return sum(file.stat().st_size for file in folder.iterdir())


def write_parquet(folder: Path, images: list[bytes], count: int) -> int:
    """The same in parquet files with groups of 100 rows."""
    folder.mkdir()
    each = max(1, SHARD // len(images[0]))
    for first in range(0, count, each):
        rows = range(first, min(first + each, count))
        table = pa.table({"image": [images[i % POOL] for i in rows], "label": [i % 10 for i in rows]})
        pq.write_table(table, folder / f"part-{first // each:05d}.parquet", row_group_size=100)
    return sum(file.stat().st_size for file in folder.iterdir())


# --- a pass in bounded memory ---------------------------------------------------------------------------------------


class Memory:
    """Peaks of the memory of this process that is not the pages of files, in bytes, since the last `peak()`."""

    def __init__(self) -> None:
        self.start = self.most = status_bytes("RssAnon")
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, status_bytes("RssAnon"))
            time.sleep(0.02)

    def peak(self) -> int:
        """The peak above the start."""
        found, self.most = self.most - self.start, status_bytes("RssAnon")
        return found


def one_pass(batches: Iterator[Any], count: int) -> dict[str, float]:
    """Seconds of a pass over `count` batches, and the peak of the memory in each quarter in MB."""
    memory, found, start = Memory(), {}, time.perf_counter()
    for number, _ in enumerate(batches, 1):
        if number % max(1, count // 4) == 0 and len(found) < 4:
            found[f"quarter {len(found) + 1}"] = memory.peak() / 1e6
    return found | {"seconds": time.perf_counter() - start}


def images_pass(folder: Path, o: SimpleNamespace) -> dict[str, float]:
    """A pass over the training images of a folder; its index is made before."""
    started = time.perf_counter()
    sets = load_images(DataSettings(name=str(folder), size=o.size, shuffle_window=o.window))
    opened = time.perf_counter() - started
    data = ImageDataModule(sets, 64)
    loader = data.train_dataloader()
    return one_pass(iter(loader), len(loader)) | {"opened": opened, "items": 64 * len(loader)}


def text_pass(folder: Path, o: SimpleNamespace) -> dict[str, float]:
    """A pass over rows of tokens, after they were made."""
    settings = StreamSettings(name=str(folder), batch_size=16)
    started = time.perf_counter()
    data = PackedTextDataModule(find_documents(settings), characters("".join(map(chr, range(32, 127))), LENGTH),
                                settings, length=LENGTH, val_fraction=0.01)  # fmt: skip
    opened = time.perf_counter() - started
    loader = data.train_dataloader()
    return one_pass(iter(loader), len(loader)) | {"opened": opened, "items": 16 * len(loader)}


def write_texts(folder: Path, size: int) -> int:
    """JSON lines of `size` bytes, of documents of about 2,000 characters."""
    folder.mkdir()
    words = np.array(["one", "of", "some", "words", "that", "repeat", "and", "again"])
    generator, each = np.random.default_rng(0), size // 4
    for number in range(4):
        with open(folder / f"{number}.jsonl", "w") as file:
            written = 0
            while written < each:
                written += file.write(f'{{"text": "{" ".join(words[generator.integers(0, 8, 400)])}"}}\n')
    return sum(file.stat().st_size for file in folder.iterdir())


def alone(function: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
    """What a function returns in a process of its own, whose memory is its own."""
    with get_context("fork").Pool(1) as pool:
        return pool.apply(function, args)


def passes(o: SimpleNamespace, folder: Path) -> None:
    """The table of passes."""
    images = pngs(o.size)
    count = max(256, int(o.gigabytes * 1e9 / len(images[0])))
    print(f"\none pass, {machine('wall')}\n")
    print("| | size | items | opened first | pass | peak of memory in each quarter |\n|---|---|---|---|---|---|")
    kinds = {
        "tar shards of images": (lambda place: write_tars(place, images, count), images_pass),
        "parquet files of images": (lambda place: write_parquet(place, images, max(256, count // 4)), images_pass),
        "texts, packed into rows": (lambda place: write_texts(place, int(o.gigabytes * 5e7)), text_pass),
    }
    for name, (write, run) in kinds.items():
        place = folder / name.split()[0]
        size = write(place)
        found = alone(run, place, o)
        quarters = [value for key, value in found.items() if key.startswith("quarter")]
        speed = size / 1e6 / found["seconds"]
        print(f"| {name} | {size / 1e6:,.0f} MB | {found['items']:,} | {found['opened']:.1f} s | {speed:,.0f} MB/s | "
              f"{' / '.join(f'{value:.0f}' for value in quarters)} MB |", flush=True)  # fmt: skip
        record(f"one pass, {name}", {"MB/s": speed, "peak": max(quarters), "first": quarters[0]}, "wall")
        for file in place.iterdir():
            file.unlink()


# --- against memory ---------------------------------------------------------------------------------------------------


def endless(data: ImageDataModule) -> Iterator[Any]:
    while True:
        yield from data.train_dataloader()


def trainer(data: ImageDataModule, batches: Iterator[Any], steps: int) -> Callable[[], None]:
    """A function that takes optimizer steps of vit_cifar_tiny on the next batches."""
    model = zoo.create_model("vit_cifar_tiny", num_classes=10, seed=0).train()
    task = ClassificationTask(model, lr=1e-3, augment=data.augment)
    optimizer = adamw(param_groups(model, 1e-3, 0.05))

    def run() -> None:
        for step in range(steps):
            task.loss_of(next(batches), step, 0).backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def against_memory(o: SimpleNamespace, folder: Path) -> None:
    """The tables of training steps and of the loaders alone."""
    write_tars(folder / "cifar", pngs(32), o.images)
    streamed = load_images(DataSettings(name=str(folder / "cifar"), size=32))
    train: Any = streamed.train
    whole = ImageDataset(train.images[:], train.labels, train.classes)
    memory = ImageSplits(whole, whole, "memory", False, "", streamed.mean, streamed.std)
    modules = {"in memory": ImageDataModule(memory, o.batch), "streamed": ImageDataModule(streamed, o.batch),
               "streamed, 1 worker": ImageDataModule(streamed, o.batch, num_workers=1)}  # fmt: skip
    batches = {name: endless(data) for name, data in modules.items()}
    options = {"rounds": o.rounds, "clock": "wall", "items": o.batch * o.steps}
    title = f"training steps, {o.images:,} CIFAR-like images"
    paired({name: trainer(modules[name], batches[name], o.steps) for name in modules}, title=title, **options)
    calls = {name: lambda name=name: [next(batches[name]) for _ in range(o.steps)] for name in modules}
    paired(calls, title="the loaders alone, without augmentation", **options)


def main() -> None:
    """Run the benchmark."""
    o = options({"gigabytes": 0.01, "size": 32, "images": 600, "steps": 1, "rounds": 1, "batch": 32}, gigabytes=2.0,
                size=128, images=10_000, steps=2, rounds=5, batch=128, window=1024)  # fmt: skip
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = f"{name}/cache"  # of the indexes
        passes(o, Path(name))
        against_memory(o, Path(name))


if __name__ == "__main__":
    sys.exit(main())
