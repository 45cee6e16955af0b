"""What the CPU of this machine can do, where the choice of precision depends on it. Importing this loads no torch."""

import os
import platform
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class CPUFeatures:
    """Instruction sets that oneDNN, the library of torch's CPU kernels, uses.

    Attributes:
        bf16: Native bfloat16 arithmetic; without it bfloat16 is emulated, slower than float32.
        amx: Matrix tiles (AMX). There the gradient of a bfloat16 `nn.Conv1d` with respect to its weight is wrong: some
            entries are whatever lay in freed memory, because oneDNN reads scratch that it never wrote. Conv2d, grouped
            Conv1d, Linear, and other instruction sets are not affected.
    """

    bf16: bool
    amx: bool

    @classmethod
    def detect(cls) -> "CPUFeatures":
        """The features of this machine; the environment variable ONEDNN_MAX_CPU_ISA may exclude AMX."""
        import torch

        allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
        amx = torch.cpu._is_amx_tile_supported() and (allowed in ("", "ALL", "DEFAULT") or "AMX" in allowed)
        return cls(bf16=torch.ops.mkldnn._is_mkldnn_bf16_supported(), amx=amx)


@cache
def is_intel() -> bool:
    """Whether this CPU is one of Intel, for which alone MKL has its fastest kernels."""
    return "Intel" in cpu_name()


def cpu_name() -> str:
    """The model of this CPU, or its architecture where the system does not name it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
