"""One training step of vit_cifar (192 wide, 12 deep, patch 4) against the same timm ViT in the same loop.

    python benchmarks/train_step.py [batch=64] [depth=12] [rounds=7] [device=cpu|cuda]

Targets: >= 1.0x in float32, >= 1.35x under bfloat16 autocast. Both use fused AdamW.
"""

from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from _measure import options, paired

import zoo


def stepper(model: torch.nn.Module, batch: int, device: str, half: bool) -> Callable[[], None]:
    """A function that takes one training step."""
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    x, y = torch.randn(batch, 3, 32, 32, device=device), torch.randint(0, 10, (batch,), device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    o = options(dict(batch=4, depth=1, rounds=1), batch=64, depth=12, rounds=7, device="cpu")

    def theirs() -> torch.nn.Module:
        return timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=4, depth=o.depth, num_heads=3, num_classes=10
        )

    def ours() -> torch.nn.Module:
        return zoo.create_model("vit_cifar", depth=o.depth, seed=0)

    clock = "cuda" if o.device == "cuda" else "cpu"
    for name, half in (("float32", False), ("bfloat16 autocast", True)):
        calls = {
            f"timm {name}": stepper(theirs(), o.batch, o.device, half),
            f"zoo {name}": stepper(ours(), o.batch, o.device, half),
        }
        paired(calls, rounds=o.rounds, clock=clock, title=f"vit_cifar training step, batch {o.batch}, {name}")


if __name__ == "__main__":
    main()
