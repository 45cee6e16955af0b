"""One training step of vit_cifar (192 wide, 12 deep, patch 4) or ViT-B against the same timm ViT in the same loop.

    python benchmarks/train_step.py [model=vit_cifar|vit_base] [batch=64] [depth=12] [rounds=7] [device=cpu|cuda]
        [dtype=float32,bfloat16] [compile=no,ours,peer]

Targets: >= 1.0x in float32, >= 1.35x under bfloat16 autocast. All use fused AdamW. On a GPU only bfloat16 autocast is
compared unless `dtype=` says more; compile=ours adds ours with its stack of blocks compiled, peer timm compiled.
"""

from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from _measure import Makes, attempt, clock_of, in_tables, options, paired, transformer_flops

import zoo
from zoo.training.compile_blocks import compile_stacks

SIZES = {
    "vit_cifar": dict(image=32, patch=4, width=192, classes=10),
    "vit_base": dict(image=224, patch=16, width=768, classes=1000),
}


def theirs(name: str, depth: int) -> torch.nn.Module:
    """timm's model, on torch's default device."""
    if name == "vit_base":
        return timm.create_model("vit_base_patch16_224", depth=depth)
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=4, depth=depth, num_heads=3, num_classes=10
    )


def ours(name: str, depth: int) -> torch.nn.Module:
    """The same model of the zoo."""
    return zoo.create_model("vit_base_patch16_224" if name == "vit_base" else name, depth=depth, seed=0)


def stepper(model: torch.nn.Module, name: str, batch: int, device: str, half: bool) -> Callable[[], None]:
    """A function that takes one training step."""
    model.to(device).train()
    size, classes = SIZES[name]["image"], SIZES[name]["classes"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    x, y = torch.randn(batch, 3, size, size, device=device), torch.randint(0, classes, (batch,), device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def compiled(model: torch.nn.Module) -> torch.nn.Module:
    """The model, compiled as a whole."""
    model.compile()
    return model


def stack_compiled(model: torch.nn.Module) -> torch.nn.Module:
    """The model with its stack of blocks compiled, as by compile=stack of a recipe."""
    compile_stacks(model)
    return model


def flops_of(name: str, batch: int, depth: int) -> float:
    """FLOPs of the products in one step, three times those of the forward pass."""
    image, patch, width, classes = SIZES[name].values()
    patches = (image // patch) ** 2
    embedding = 2 * patches * patch * patch * 3 * width
    forward = transformer_flops([patches + 1], width=width, depth=depth) + embedding + 2 * width * classes
    return 3 * batch * forward


def tables(o: Any, name: str) -> list[Makes]:
    """For each table: name -> function that makes the model."""
    return in_tables(
        o.compile,
        {f"timm {name}": theirs, f"zoo {name}": ours},
        {f"zoo stack compiled {name}": lambda *size: stack_compiled(ours(*size))},
        {f"timm compiled {name}": lambda *size: compiled(theirs(*size))},
    )


def candidates(o: Any, makes: Makes, half: bool) -> dict[str, Callable[[], object]]:
    """Name -> function that takes one training step."""

    def step_of(make: Callable[..., torch.nn.Module]) -> Callable[[], None]:
        with torch.device(o.device):
            model = make(o.model, o.depth)
        return stepper(model, o.model, o.batch, o.device, half)

    return {key: attempt(lambda make=make: step_of(make)) for key, make in makes.items()}


def main() -> None:
    smoke = dict(batch=4, depth=1, rounds=1)
    o = options(smoke, model="vit_cifar", batch=64, depth=12, rounds=7, device="cpu", dtype="", compile="no")
    for dtype in (o.dtype or ("bfloat16" if o.device == "cuda" else "float32,bfloat16")).split(","):
        name = "bfloat16 autocast" if dtype == "bfloat16" else dtype
        title = f"{o.model} training step, batch {o.batch}, {name}"
        for makes in tables(o, name):
            paired(candidates(o, makes, name != "float32"), rounds=o.rounds, clock=clock_of(o.device), title=title,
                   items=o.batch, flops=flops_of(o.model, o.batch, o.depth))  # fmt: skip


if __name__ == "__main__":
    main()
