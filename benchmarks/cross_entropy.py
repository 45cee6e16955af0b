"""Cross-entropy from hidden states against the plain form: time in one process, memory in separate processes.

    python benchmarks/cross_entropy.py [what=time,memory] [tokens=4096] [width=768] [vocabulary=50257] [rounds=5]
        [dtype=float32|bfloat16] [device=cpu|cuda]

The plain form is `F.cross_entropy(F.linear(hidden, weight).float(), labels)`, which stores all scores several times.
Targets for GPT-2's vocabulary at 8 x 512 tokens: <= 1/4 of its memory, >= 1.0x its speed. With dtype=bfloat16 both run
under autocast. Memory is measured as in contrastive_loss.py.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from _measure import GLIBC, options, paired, peak_bytes, record
from torch import Tensor

from zoo.nn.losses import linear_cross_entropy

NAMES = ("plain", "zoo linear_cross_entropy")


def step(name: str, tokens: int, width: int, vocabulary: int, dtype: str, device: str) -> Callable[[], list[Tensor]]:
    """A function that computes the loss and the gradients of hidden states and weight."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, width, generator=g).to(device).requires_grad_()
    w = torch.randn(vocabulary, width, generator=g).mul_(0.02).to(device).requires_grad_()
    y = torch.randint(vocabulary, (tokens,), generator=g).to(device)

    def run() -> list[Tensor]:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            value = F.cross_entropy(F.linear(x, w).float(), y) if name == "plain" else linear_cross_entropy(x, w, y)
        return [value.detach(), *torch.autograd.grad(value, (x, w))]

    return run


def peak(name: str, o: SimpleNamespace) -> float:
    """Peak memory in MB above the level before; to be run in a separate process."""
    tokens, width, vocabulary, dtype, device = o.tokens, o.width, o.vocabulary, o.dtype, o.device
    step(name, 16, width, 64, dtype, device)()
    run = step(name, tokens, width, vocabulary, dtype, device)
    return peak_bytes(run, device) / 2**20


def main() -> None:
    smoke = dict(tokens=64, width=16, vocabulary=512, rounds=1)
    o = options(smoke, what="time,memory", tokens=4096, width=768, vocabulary=50257, rounds=5, dtype="float32",
                device="cpu")  # fmt: skip
    torch.set_num_threads(1)
    size = f"{o.tokens} tokens, {o.width} x {o.vocabulary}, {o.dtype}"
    for what in o.what.split(","):
        if what.startswith("peak:"):
            print(peak(what.removeprefix("peak:"), o))
        elif what == "time":
            calls = {name: step(name, o.tokens, o.width, o.vocabulary, o.dtype, o.device) for name in NAMES}
            theirs, ours = (call() for call in calls.values())
            error = max(((x - y).abs().max() / y.abs().max()).item() for x, y in zip(ours, theirs, strict=True))
            print(f"maximum relative difference of loss and gradients {error:.1e}")
            del theirs, ours
            clock = "cuda" if o.device == "cuda" else "cpu"
            paired(calls, rounds=o.rounds, clock=clock, title=f"{size}, forward and backward")
        else:
            print(f"\nmemory, {size}\n| | peak over base MB | ratio |\n|---|---|---|")
            baseline = 0.0
            for name in NAMES:
                words = [f"{key}={value}" for key, value in (vars(o) | {"what": f"peak:{name}"}).items()]
                done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True,
                                      env=os.environ | GLIBC)  # fmt: skip
                used = float(done.stdout)
                baseline = baseline or used
                record(f"memory, {size}", {name: used, "baseline": baseline})
                print(f"| {name} | {used:.0f} | 1/{baseline / used:.1f} |", flush=True)


if __name__ == "__main__":
    main()
