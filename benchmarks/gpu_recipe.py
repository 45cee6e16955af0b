"""The recipe vit_cifar at batch 512 on a GPU, with all its callbacks: images per second, time to the start, accuracy.

    python benchmarks/gpu_recipe.py [steps=400] [batch=512] [data=auto] [model=vit_cifar] [device=cuda|cpu]
        [options="cuda_graph=true compile=false"]
    python benchmarks/gpu_recipe.py minutes=4 data=cifar10 device=cuda [epochs=0]     benchmarks/gpu_cifar.sh

data=auto is CIFAR-10 if it is there (ZOO_DATA_DIR), else synthetic images; data=noise is files like those of
CIFAR-10, for times only. options are further ones of the recipe. The recipe runs twice in this process: a short run,
which imports everything and fills the caches of decoded images and of compiled code, then the one that is measured.
Images per second are the median of those that the run writes to its metrics.csv, without the first; the time to the
first step goes from the call of the recipe to the end of that step. Targets on an H100: 25,000 images/s, 6 s.

minutes= adds a real run of that length, with as many epochs as fit at the speed measured before (or `epochs`), because
the learning rate has to reach its end. Target for four minutes of CIFAR-10 on an H100: >= 91 % on the test set.
"""

import csv
import importlib.util
import io
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from _measure import clock_of, options, record

from zoo.training.callbacks import TrainingTimer
from zoo.training.config import ImageSettings
from zoo.training.main import main as run_recipe

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "vit_cifar.py"
TRAINING_IMAGES = 49_000  # of CIFAR-10, without those held out for validation
SETTINGS = (  # no drop path: blocks share a compiled graph if they are the same
    "stem=conv", "model.class_token=false", "pool=mean", "lr=1.5e-3", "weight_decay=0.1",
    "warmup=0.08", "betas=[0.9, 0.98]", "policy=trivialaugment", "cutmix=1.0", "mix_probability=0.5",
    "label_smoothing=0.1", "ema=0.998", "val_fraction=0.02", "baseline=false", "plots=false",
)  # fmt: skip


def recipe() -> ModuleType:
    """The module of the recipe."""
    spec = importlib.util.spec_from_file_location(RECIPE.stem, RECIPE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_noise(folder: Path, count: int) -> None:
    """Write parquet files with JPEG images of 32 x 32 random pixels, in the format of CIFAR-10's."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    rng, files = np.random.default_rng(0), []
    for _ in range(200):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(stream, "JPEG", quality=95)
        files.append({"bytes": stream.getvalue(), "path": None})
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    folder.mkdir()
    for split, n in (("train", count), ("test", max(10, count // 25))):
        images = pa.array([files[i % len(files)] for i in range(n)], kind)
        pq.write_table(pa.table({"img": images, "label": [i % 10 for i in range(n)]}), folder / f"{split}.parquet")


def call(train: Any, o: Any, *words: str) -> None:
    """Run the recipe with these options. Raises SystemExit if it fails."""
    data = ["data=cifar10", f"data.data_dir={o.folder}"] if o.data == "noise" else [f"data={o.data}"]
    common = ["hardware=gpu" if o.device == "cuda" else "hardware=cpu", f"model={o.model}", *data, *o.options.split(),
              f"batch_size={o.batch}", f"max_train_samples={o.samples}", f"max_test_samples={o.samples}"]  # fmt: skip
    if status := run_recipe(train, ImageSettings, [*common, *SETTINGS, *words]):
        raise SystemExit(f"the recipe ended with exit status {status}")


def measured(train: Any, o: Any, steps: int) -> tuple[float, list[float]]:
    """(seconds to the end of the first step, images per second of each row of metrics.csv)."""
    ended: list[float] = []
    plain = TrainingTimer.on_train_batch_end

    def on_train_batch_end(*args: Any) -> None:
        if not ended:
            if o.device == "cuda":
                import torch

                torch.cuda.synchronize()
            ended.append(time.perf_counter())
        plain(*args)

    with tempfile.TemporaryDirectory() as folder, patch.object(TrainingTimer, "on_train_batch_end", on_train_batch_end):
        started = time.perf_counter()
        call(train, o, f"steps={steps}", f"log_every={max(1, steps // 8)}", f"validate_every={steps}", "progress=false",
             "resume=never", f"run_dir={folder}/run")  # fmt: skip
        with open(Path(folder) / "run" / "metrics.csv") as lines:
            rows = [row["items_per_second"] for row in csv.DictReader(lines)]
    return ended[0] - started, [float(row) for row in rows if row]


def real_run(train: Any, o: Any, speed: float) -> None:
    """Train for `minutes`, and print and record the accuracy on the test set."""
    images = o.samples or TRAINING_IMAGES
    epochs = o.epochs or max(1, int(0.9 * 60 * o.minutes * speed / images))
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(o.run_dir or f"{folder}/run")
        call(train, o, f"epochs={epochs}", f"max_minutes={o.minutes}", f"run_dir={run_dir}",
             f"validate_every={max(1, epochs * images // o.batch // 12)}")  # fmt: skip
        found = json.loads((run_dir / "metrics.json").read_text())
    accuracy = 100 * found["result"]["test_accuracy"]
    title = f"vit_cifar recipe, {o.minutes:g} minutes"
    print(f"\n{title}\n| | |\n|---|---|\n| epochs | {epochs} |\n| steps | {found['steps']} |")
    print(f"| of planned | {found['planned_steps']} |")
    print(f"| seconds of training | {found['seconds']:.0f} |\n| test accuracy | {accuracy:.2f} % |", flush=True)
    record(title, {"zoo test accuracy": accuracy}, clock_of(o.device))


def main() -> None:
    smoke = dict(steps=4, batch=8, data="noise", model="vit_cifar_tiny", samples=64)
    o = options(smoke, steps=400, batch=512, data="auto", model="vit_cifar", samples=0, minutes=0.0, epochs=0,
                run_dir="", device="cpu", options="")  # fmt: skip
    if o.data != "noise":
        run(o)
        return
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, XDG_CACHE_HOME=f"{folder}/cache"):
        o.folder = folder
        write_noise(Path(folder) / "cifar10", o.samples or 50_000)
        run(o)


def run(o: Any) -> None:
    """Run the recipe, print and record what is measured."""
    train, speed = recipe().train, 0.0
    if not o.epochs:
        first, _ = measured(train, o, min(3, o.steps))
        start, speeds = measured(train, o, o.steps)
        speed = statistics.median(speeds[1:] or speeds)
        print(f"\nvit_cifar recipe, batch {o.batch}\n| | |\n|---|---|")
        print(f"| images/s in the run | {speed:,.0f} |\n| seconds to the first step | {start:.2f} |")
        print(f"| the same in the first run, with imports | {first:.2f} |", flush=True)
        values = {"zoo images per second": speed, "zoo seconds to the first step": start}
        record(f"vit_cifar recipe, batch {o.batch}", values, clock_of(o.device))
    if o.minutes:
        real_run(train, o, speed)


if __name__ == "__main__":
    main()
