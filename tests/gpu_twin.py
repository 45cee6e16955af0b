"""Choices as on a GPU, on any machine: the record of one, and a twin of its flash kernel for packed rows."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.nn import kernels, sdpa
from zoo.nn.kernels import Capabilities
from zoo.nn.sdpa import Packed, repeat_kv

H100 = Capabilities("cuda", (9, 0))


def flash_varlen(q: Tensor, k: Tensor, v: Tensor, packed: Packed, scale: float, dropout: float) -> Tensor:
    """The flash kernel in torch's operations, row by row."""
    assert packed.starts.dtype == torch.int32 and not dropout
    left, right = (torch.inf if n < 0 else n for n in packed.window)
    outputs = []
    for start, end in itertools.pairwise(packed.starts.tolist()):
        rows = [repeat_kv(x[None, start:end].transpose(1, 2), q.shape[1]) for x in (q, k, v)]
        i = torch.arange(end - start)
        allowed = (i[:, None] - i <= left) & (i - i[:, None] <= right)
        assert end - start <= packed.longest
        outputs.append(F.scaled_dot_product_attention(*rows, allowed, scale=scale)[0].transpose(0, 1))
    return torch.cat(outputs)


def choose_as_on_a_gpu(
    patch: pytest.MonkeyPatch, record: Capabilities = H100, *, flash_takes: tuple[torch.dtype, ...]
) -> list[Any]:
    """Returns a list to which each call of the twin appends its arguments. flash_takes: instead of half dtypes."""
    calls: list[Any] = []
    patch.setitem(kernels.RECORDS, torch.device("cpu"), record)
    patch.setattr(kernels, "HALF", flash_takes)
    patch.setattr(sdpa, "flash_varlen", lambda *args: calls.append(args) or flash_varlen(*args))
    return calls
