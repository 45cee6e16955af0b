"""ViT-B/16 inference: as created and after zoo.optimize, against timm in the same process.

    python benchmarks/inference.py [batch=1,4,16] [depth=12] [rounds=7] [device=cpu|cuda]

Targets: as created >= 0.98x timm; optimized >= 1.20x in float32, bfloat16 >= 2.1x timm in float32 and >= 1.12x timm in
bfloat16 at batch 4 (2.2x and 1.15x at batch 16). Weights are random; the numbers of all float32 variants are compared.
"""

from collections.abc import Callable

import timm
import torch
from _measure import options, paired

import zoo

NAME = "vit_base_patch16_224"


def variants(batch: int, depth: int, device: str) -> dict[str, Callable[[], torch.Tensor]]:
    """Name -> function that runs the model on one batch."""
    ours = zoo.create_model(NAME, depth=depth, seed=0).eval().to(device)
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


def main() -> None:
    o = options(dict(batch="1", depth=1, rounds=1), batch="1,4,16", depth=12, rounds=7, device="cpu")
    clock = "cuda" if o.device == "cuda" else "cpu"
    for batch in map(int, o.batch.split(",")):
        calls = variants(batch, o.depth, o.device)
        with torch.inference_mode():
            paired(calls, rounds=o.rounds, clock=clock, title=f"{NAME}, batch {batch}")


if __name__ == "__main__":
    main()
