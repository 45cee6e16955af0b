"""ViT-B/16 inference: as created and after zoo.optimize, against timm in the same process.

    python benchmarks/inference.py [batch=1,4,16] [depth=12] [rounds=7] [device=cpu|cuda] [dtype=float32|bfloat16]
        [compile=no,ours,peer]

Targets: as created >= 0.98x timm; optimized >= 1.20x in float32, bfloat16 >= 2.1x timm in float32 and >= 1.12x timm in
bfloat16 at batch 4 (2.2x and 1.15x at batch 16). Weights are random; the numbers of all float32 variants are compared.
dtype=bfloat16, the default on a GPU, compares bfloat16 with bfloat16: as created, optimized, timm and timm compiled.
"""

import copy
from collections.abc import Callable
from typing import Any

import timm
import torch
from _measure import Makes, attempt, clock_of, dtype_of, in_tables, options, paired, transformer_flops
from torch import Tensor

import zoo

NAME = "vit_base_patch16_224"
TOKENS, WIDTH, CLASSES = 197, 768, 1000
Calls = dict[str, Callable[[], object]]


def variants(ours: zoo.Model, batch: int, depth: int, device: str) -> Calls:
    """Name -> function that runs the model on one batch."""
    theirs = timm.create_model(NAME, depth=depth).eval().to(device)
    half = timm.create_model(NAME, depth=depth).eval().to(device, torch.bfloat16)
    for p in ours.parameters():
        p.requires_grad_(False)
    fast, fast_half = zoo.optimize(ours), zoo.optimize(ours, dtype=torch.bfloat16)
    print(fast.optimize_report, fast_half.optimize_report, sep="\n")
    x = torch.randn(batch, 3, 224, 224, device=device)
    x_half = x.bfloat16()
    with torch.inference_mode():
        reference = ours(x)
        error = float((fast(x) - reference).abs().max() / max(1.0, float(reference.abs().max())))
    print(f"batch {batch}: maximum difference of the optimized model {error:.1e}")
    return {
        "timm float32": lambda: theirs(x),
        "zoo float32": lambda: ours(x),
        "zoo optimized float32": lambda: fast(x),
        "timm bfloat16": lambda: half(x_half),
        "zoo optimized bfloat16": lambda: fast_half(x),
    }


def half_variants(ours: zoo.Model, batch: int, device: str, compile: str) -> list[Makes]:
    """For each table: name -> function that makes the function, everything in bfloat16. ours: in float32."""
    x = torch.randn(batch, 3, 224, 224, device=device)
    with torch.inference_mode():
        reference = ours(x)
    half, x = copy.deepcopy(ours).to(torch.bfloat16).requires_grad_(False), x.bfloat16()

    def theirs() -> torch.nn.Module:
        with torch.device(device):
            return timm.create_model(NAME, depth=len(ours.blocks)).eval().to(torch.bfloat16)

    def call(model: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        return lambda: model(x)

    def optimized(**more: bool) -> Callable[[], Tensor]:
        fast = zoo.optimize(half, dtype=torch.bfloat16, **more)
        print(fast.optimize_report)
        with torch.inference_mode():
            error = float((fast(x) - reference).abs().max() / reference.abs().max())
        print(f"batch {batch}: maximum difference of the optimized model to float32 {error:.1e}")
        return call(fast)

    eager = {"timm bfloat16": lambda: call(theirs()), "zoo bfloat16": lambda: call(half),
             "zoo optimized bfloat16": optimized}  # fmt: skip
    return in_tables(
        compile,
        eager,
        {"zoo optimized compiled bfloat16": lambda: optimized(compile=True)},
        {"timm compiled bfloat16": lambda: call(torch.compile(theirs()))},
    )


def flops_of(batch: int, depth: int) -> float:
    """FLOPs of the products for a batch: patches, blocks, classifier."""
    patches = 2 * (TOKENS - 1) * 16 * 16 * 3 * WIDTH
    return batch * (patches + transformer_flops([TOKENS], width=WIDTH, depth=depth) + 2 * WIDTH * CLASSES)


def main() -> None:
    smoke = dict(batch="1", depth=1, rounds=1, compile="no")
    o = options(smoke, batch="1,4,16", depth=12, rounds=7, device="cpu", dtype="", compile="yes")
    with torch.device(o.device):
        ours = zoo.create_model(NAME, depth=o.depth, seed=0).eval()
    for batch in map(int, o.batch.split(",")):
        more: dict[str, Any] = dict(
            rounds=o.rounds, clock=clock_of(o.device), items=batch, flops=flops_of(batch, o.depth)
        )
        if dtype_of(o) != torch.bfloat16:
            calls = variants(ours, batch, o.depth, o.device)
            with torch.inference_mode():
                paired(calls, title=f"{NAME}, batch {batch}", **more)
            continue
        for makes in half_variants(ours, batch, o.device, o.compile):
            torch._dynamo.reset()  # another batch size has code of its own, without dynamic shapes
            calls = {name: attempt(make) for name, make in makes.items()}
            with torch.inference_mode():  # a batch that comes again becomes a CUDA graph before the time counts
                paired(calls, warmup=5, title=f"{NAME}, batch {batch}, bfloat16", **more)


if __name__ == "__main__":
    main()
