"""Contrastive losses against open_clip's, forward and backward: time in one process, memory in separate processes.

    python benchmarks/contrastive_loss.py [what=time,memory,large,cached] [rows=8192] [width=512] [rounds=5]
        [device=cpu|cuda]

time and memory: targets at 8192 rows of width 512 are >= 1.2x the speed of ClipLoss and <= 1/5 of its memory. large:
32,768 rows with the zoo only, within 0.8 GB; open_clip would need 16 GB. cached: a training step of vit_cifar and
bert_tiny on 256 pairs, all at once and 16 at a time. Memory is the peak of the resident set, or of GPU allocations,
above the level after creating inputs and loading kernels. On a GPU both run under bfloat16 autocast. The C library is
configured to return freed memory immediately; otherwise memory that it keeps would count, two to five times as much for
the chunked steps.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from _measure import GLIBC, attempt, options, paired, peak_bytes, record
from torch import Tensor

import zoo
from zoo.nn.losses.contrastive import clip_loss, siglip_loss

CACHED = ("256 pairs at once", "256 pairs 16 at a time")
PAIRS, PART = 256, 16
NAMES = ("open_clip ClipLoss", "zoo clip_loss", "open_clip SigLipLoss", "zoo siglip_loss")
LARGE = 32_768


def step(name: str, rows: int, width: int, device: str) -> Callable[[], list[Tensor]]:
    """A function that computes the loss and the gradients of both sides, scale and bias."""
    g = torch.Generator().manual_seed(0)
    a, b = (F.normalize(torch.randn(rows, width, generator=g), dim=1).to(device).requires_grad_() for _ in range(2))
    scale, bias = (torch.tensor(x, device=device, requires_grad=True) for x in (1 / 0.07, -10.0))
    leaves = [a, b, scale, bias]
    if name.startswith("open_clip"):
        import open_clip.loss

        loss = getattr(open_clip.loss, name.split()[1])()
    else:
        loss = {"clip_loss": clip_loss, "siglip_loss": siglip_loss}[name.split()[1]]
    if "siglip" not in name.lower():
        leaves.pop()

    def run() -> list[Tensor]:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            value = loss(*leaves)
        return [value.detach(), *torch.autograd.grad(value, leaves)]

    return run


def training(name: str, rows: int, device: str) -> Callable[[], object]:
    """A function that computes the gradients of a step of two towers."""
    from zoo.tasks import ContrastiveTask

    g = torch.Generator().manual_seed(0)
    batch = {
        "pixel_values": torch.randn(rows, 3, 32, 32, generator=g).to(device),
        "input_ids": torch.randint(5, 30_000, (rows, 16), generator=g).to(device),
    }
    text = {"name": "bert_tiny", "pool": "mean", "pooler": None}
    model = zoo.contrast(image="vit_cifar", text=text, seed=0).to(device).train()
    task = ContrastiveTask(model, grad_cache_size=None if name == CACHED[0] else PART, duplicates="ignore").to(device)

    def run() -> None:
        task.loss_of(batch, 0, 0).backward()

    task.loss_of({key: x[:2] for key, x in batch.items()}, 0, 0).backward()  # allocates the gradients
    return run


def peak(name: str, rows: int, width: int, device: str) -> float:
    """Peak memory in MB above the level before; to be run in a separate process."""
    if name in CACHED:
        run: Callable[[], object] = training(name, rows, device)
    else:
        step(name, 16, width, device)()
        run = step(name, rows, width, device)
    return peak_bytes(run, device) / 2**20


def memory(names: tuple[str, ...], rows: int, width: int, device: str) -> None:
    """Print a table of peaks; ratios are to the preceding baseline: open_clip's loss, or the step without chunks."""
    print(f"\nmemory, {rows} rows of width {width}\n| | peak over base MB | ratio |\n|---|---|---|")
    baseline = 0.0
    for name in names:
        command = [sys.executable, __file__, f"what=peak:{name}", f"rows={rows}", f"width={width}", f"device={device}"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | GLIBC)
        if done.returncode:
            if device != "cuda":
                raise SystemExit(f"{name}: {done.stderr.strip()[-600:]}")
            reason = " ".join(done.stderr.strip().splitlines()[-1:]).replace("|", "/")[:120]
            print(f"| {name} | failed: {reason} | |", flush=True)
            continue
        used = float(done.stdout)
        baseline = used if name.startswith("open_clip") or name == CACHED[0] else baseline
        record(f"memory, {rows} rows of width {width}", {name: used, "baseline": baseline})
        print(f"| {name} | {used:.0f} | {f'1/{baseline / used:.1f}' if baseline else ''} |", flush=True)


def compare(name: str, calls: dict[str, Callable[[], Any]], device: str) -> None:
    """Print how far the loss and the gradients of ours are from open_clip's."""
    try:
        theirs, ours = (call() for call in calls.values())
    except Exception:
        if device != "cuda":
            raise
        return  # the row of the table has the reason
    error = max(((x - y).abs().max() / y.abs().max()).item() for x, y in zip(ours, theirs, strict=True))
    print(f"{name}: maximum relative difference of loss and gradients {error:.1e}")


def main() -> None:
    smoke = dict(what="time,memory", rows=256, width=64, rounds=1)
    o = options(smoke, what="time,memory,large,cached", rows=8192, width=512, rounds=5, device="cpu")
    torch.set_num_threads(1)
    for what in o.what.split(","):
        if what.startswith("peak:"):
            print(peak(what.removeprefix("peak:"), o.rows, o.width, o.device))
        elif what == "time":
            for kind in (NAMES[:2], NAMES[2:]):
                calls = {name: attempt(lambda name=name: step(name, o.rows, o.width, o.device)) for name in kind}
                compare(kind[1], calls, o.device)
                title = f"{o.rows} rows of width {o.width}, forward and backward"
                paired(calls, rounds=o.rounds, clock="cuda" if o.device == "cuda" else "cpu", title=title)
        elif what == "cached":
            memory(CACHED, PAIRS, o.width, o.device)
            calls = {name: training(name, PAIRS, o.device) for name in CACHED}
            clock = "cuda" if o.device == "cuda" else "cpu"
            paired(calls, rounds=2, warmup=0, clock=clock, title="forward and backward of two towers")
        else:
            memory(NAMES if what == "memory" else NAMES[1::2], o.rows if what == "memory" else LARGE, o.width, o.device)


if __name__ == "__main__":
    main()
