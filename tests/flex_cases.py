"""What the tests of flex_attention share: masks that are patterns, and a record that makes a CPU choose it."""

import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex

from zoo.nn import CAUSAL, DocumentMask, Mask, Prefix, Window, kernels
from zoo.nn.kernels import Capabilities
from zoo.nn.masks import GlobalTokensMask, MaskView, RandomBlocks, Strided, Window2D
from zoo.nn.sparse import block_masks, flex_attention
from zoo.nn.sparse.block_patterns import BlockLayout, WindowPartition

N = 200  # two blocks, the second one not full


def patterns(n: int = N) -> dict[str, Mask]:
    """Masks by name, for two rows of n tokens."""
    keep = torch.ones(2, n, dtype=torch.bool)
    keep[0, : n // 3] = keep[1, n // 2 : n // 2 + 9] = False
    position = (keep.long().cumsum(1) - 1).clamp(min=0)
    ids = torch.arange(n).div(n // 4, rounding_mode="floor").repeat(2, 1)
    ids[1] += torch.arange(n) > n // 3

    def padded(mask: Mask) -> Mask:
        return MaskView(mask, position, position, keep)

    return {
        "local": Window(30, 30),
        "causal local": CAUSAL & Window(40, 0),
        "2d": Window2D((10, (n - 3) // 10), 2, 3, prefix=3),
        "strided": Window(8, 8) | Strided(64),
        "shifted windows": WindowPartition(16, 8, prefix=2),
        "layout": BlockLayout(40, ((True, False, True),) * 3),
        "longformer": Window(9, 9) | GlobalTokensMask(5),
        "bigbird": Window(16, 16) | GlobalTokensMask(16) | RandomBlocks(16, 2, 3),
        "prefix": CAUSAL | Prefix(n // 2),
        "documents": CAUSAL & DocumentMask(ids),
        "padded causal": padded(CAUSAL),
        "padded bigbird": padded(Window(16, 16) | GlobalTokensMask(16) | RandomBlocks(16, 2, 3)),
        "padded causal local documents": padded(CAUSAL & Window(40, 0)) & DocumentMask(ids),
    }


def choose_flex_on_cpu(monkeypatch: pytest.MonkeyPatch, missing: dict[str, str] | None = None) -> None:
    """From here on attention on the CPU chooses as on a GPU, at any length; flex_attention runs in plain operations."""
    record = Capabilities("cuda", (9, 0), missing=missing or {})
    monkeypatch.setitem(kernels.RECORDS, torch.device("cpu"), record)
    monkeypatch.setattr(kernels, "FLEX_MIN_LENGTH", 1)
    monkeypatch.setattr(block_masks, "BACKEND", "eager")
    flex_attention.compiled.cache_clear()
    monkeypatch.setattr(flex_attention, "_failed", {})
    # torch refuses the backward pass of its own reference on a CPU
    monkeypatch.setattr(torch_flex, "_validate_device", lambda query, key, value: None)
