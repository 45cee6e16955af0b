"""What the tests of the core share: cores of every kind at a small size, masks and biases by name."""

import torch
from torch import Tensor

from zoo.nn import (
    CAUSAL,
    ALiBi,
    Core,
    CoreSpec,
    DocumentMask,
    PaddingMask,
    Prefix,
    T5RelativeBias,
    TensorBias,
    Window,
    initialize,
)
from zoo.nn.registry import BUILT_IN, build_core

KINDS: dict[str, dict] = {  # options that make a difference among a few tokens
    "softmax": {},
    "additive": {},
    "local": {"window": 4},
    "dilated": {"window": 4, "dilation": 2},
    "shifted_window": {"window": 4},
    "block_sparse": {"block": 3, "layout": [[i == j or (i + j) % 3 == 0 for j in range(16)] for i in range(16)]},
    "strided": {"window": 2, "step": 3},
    "axial_column": {"columns": 2},
    "longformer": {"window": 2, "tokens": 2},
    "bigbird": {"block": 2, "random": 1},
    "linear": {},
    "performer": {"features": 16},
    "rfa": {"features": 32},
}
KINDS |= {kind: {} for kind in BUILT_IN if kind not in KINDS}
KERNELS = ["linear", "performer", "rfa"]
GATED = ["gated_linear", "delta", "gated_delta"]
SCORED = [kind for kind in KINDS if kind not in KERNELS + GATED]  # their scores take masks and biases

BATCH, HEADS, TOKENS, DIM = 2, 4, 9, 8
KEEP = torch.tensor([[0, 1, 1, 1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 0, 0]])  # left, hole, right
IDS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 2], [5, 5, 5, 5, 5, 3, 3, 3, 3]])


def core_of(kind: str, *, heads: int = HEADS, groups: int = HEADS, dim: int = DIM, seed: int = 0, **spec) -> Core:
    core = build_core({"kind": kind, **KINDS[kind]}, CoreSpec(heads=heads, kv_heads=groups, head_dim=dim, **spec))
    initialize(core, seed)
    return core.eval()


def qkv(*, groups: int = HEADS, queries: int = TOKENS, keys: int = TOKENS, dtype=torch.float32) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    shapes = ((HEADS, queries), (groups, keys), (groups, keys))
    return tuple(torch.randn(BATCH, h, n, DIM, generator=draw, dtype=torch.float64).to(dtype) for h, n in shapes)


def masks(n: int = TOKENS) -> dict:
    keep = PaddingMask(KEEP[:, :n])
    return {
        "none": None,
        "causal": CAUSAL,
        "padding": keep,
        "causal & padding": CAUSAL & keep,
        "prefix": CAUSAL | Prefix(3),
        "documents": CAUSAL & DocumentMask(IDS[:, :n]),
        "window": Window(2, 1),
        "tensor": torch.rand(1, HEADS, n, n, generator=torch.Generator().manual_seed(3)) > 0.4,
    }


def biases(n: int = TOKENS, dtype=torch.float32) -> dict:
    draw = torch.Generator().manual_seed(4)
    return {
        "none": None,
        "alibi": ALiBi(HEADS),
        "buckets": T5RelativeBias(torch.randn(32, HEADS, generator=draw).to(dtype)),
        "tensor": torch.randn(BATCH, 1, n, n, generator=draw).to(dtype),
        "sum": ALiBi(HEADS) + TensorBias(torch.randn(1, HEADS, n, n, generator=draw).to(dtype)),
    }


def honored(kind: str, mask: str, bias: str) -> bool:
    """What the maths of a kind can honor: those that never form scores know causality and padding only."""
    return kind in SCORED or (bias == "none" and mask in ("none", "causal", "padding", "causal & padding"))
