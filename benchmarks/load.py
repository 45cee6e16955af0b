"""Loading ViT-B from a warm page cache: zoo.load against timm.create_model(name, checkpoint_path=...).

    python benchmarks/load.py [rounds=7]

Target: >= 8x. Also `import zoo` (target <= 0.1 s of CPU time, no torch), each import in a separate process.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import timm
from _measure import options, paired, record
from timm.models import save_for_hf

import zoo

NAME = "vit_base_patch16_224"


def loading(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(timm.create_model(NAME), folder, safe_serialization=True)
        file = str(Path(folder) / "model.safetensors")
        calls = {
            "timm create + load": lambda: timm.create_model(NAME, checkpoint_path=file),
            "zoo.load": lambda: zoo.load(folder),
        }
        paired(calls, rounds=rounds, title=f"load {NAME}, 346 MB, warm cache")


def importing(rounds: int) -> None:
    code = "import time; t = time.process_time(); import {0}; print(time.process_time() - t)"
    print(f"\n| import | CPU seconds (minimum of {rounds}) |\n|---|---|")
    for name in ("zoo", "torch", "timm"):
        times = [
            float(subprocess.run([sys.executable, "-c", code.format(name)], capture_output=True, text=True).stdout)
            for _ in range(rounds)
        ]
        record(f"import {name}", {"seconds": min(times)})
        print(f"| {name} | {min(times):.3f} |")


def main() -> None:
    o = options(dict(rounds=1, imports=1), rounds=7, imports=5)
    loading(o.rounds)
    importing(o.imports)


if __name__ == "__main__":
    main()
