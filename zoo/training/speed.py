"""How well a run uses its devices: shares of data and augmentation in its time, memory, model FLOPs utilization.

Model FLOPs utilization (MFU, Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B):

    MFU = FLOPs of forward and backward per item x items per second / (peak FLOP/s of a device x devices)

The FLOPs are those of the matrix products, convolutions and attention that torch counts in a pass over a sample of the
training items (`SamplePass`): dropped padding and frozen weights left out, recomputed activations not counted. The peak
is the dense one of bfloat16 or float16 in the data sheet, whatever the precision of the run; of an unlisted device that
of a measured matrix product. On a CPU the utilization is not known.
"""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.utils.stopwatch import Stopwatch

PEAKS = {
    "B200": 2250.0, "GH200": 989.0, "H200": 989.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0,
    "A100": 312.0, "A10G": 70.0, "A10": 125.0, "A30": 165.0, "A40": 150.0, "A6000": 155.0, "L40S": 362.0,
    "L40": 181.0, "L4": 121.0, "T4": 65.0, "V100": 125.0, "RTX 5090": 210.0, "RTX 4090": 165.0, "RTX 3090": 71.0,
}  # fmt: skip
"""TFLOP/s of dense bfloat16 or float16 matrix products with sums in float32, by part of the name; the first one
counts."""

SHOWN_FROM = 0.1  # share of the time above which a part of the step is shown in the progress line


class TimedAugmentation:
    """The augmentation of a task, with the time that it takes in training."""

    def __init__(self, augment: Any, watch: Stopwatch):
        self.augment, self.watch = augment, watch

    def __call__(self, batch: Mapping[str, Any], *, train: bool, **options: Any) -> Any:
        """The augmented batch."""
        if not train:
            return self.augment(batch, train=train, **options)
        on_gpu = any(isinstance(x, Tensor) and x.is_cuda for x in batch.values())
        return self.watch.time(self.augment, batch, train=train, on_gpu=on_gpu, **options)


def describe_parts(shares: Mapping[str, float]) -> list[str]:
    """The parts of a step that take much of its time, for the progress line: `data 21 %`."""
    return [f"{name} {share:.0%}" for name, share in shares.items() if share >= SHOWN_FROM]


def gpu_memory() -> float | None:
    """GB that the tensors of this process have taken at most on its GPU; None without one in use."""
    if not torch.cuda.is_initialized():  # `is_available` would ask the driver for each row of metrics
        return None
    return round(torch.cuda.max_memory_allocated() / 1e9, 3)


def peak_flops(name: str) -> float:
    """Peak FLOP/s of a GPU by its name, from `PEAKS`, else of a measured matrix product."""
    listed = next((peak for part, peak in PEAKS.items() if part in name), None)
    return 1e12 * listed if listed else _measured_peak(torch.device("cuda"))


def _measured_peak(device: torch.device, size: int = 4096, repeats: int = 10) -> float:
    """FLOP/s of a product of two square matrices in bfloat16, the best of some repeats."""
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(repeats):
        torch.accelerator.synchronize() if device.type != "cpu" else None
        started = time.perf_counter()
        a @ b
        torch.accelerator.synchronize() if device.type != "cpu" else None
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
