"""Which kernel serves an attention, and why: what a device offers, and the rules of choice.

`capabilities(device)` records once per device what torch offers there; `choose(record, call)` is a pure function of
this record and of what an attention computes, so that tests can choose for any GPU on any machine. Kernels:

- "plain": matmul, softmax, matmul; "sdpa": torch's scaled_dot_product_attention, which takes "flash", "cudnn",
  "efficient" or "math" by itself;
- "varlen": one flash kernel for rows of different lengths, packed without padding;
- "padded": packed rows are padded for the attention alone, under a mask; "groups": rows of equal length at a time;
- "flex": a compiled flex_attention, for masks that are patterns and not tensors;
- "tiles": on a CPU, torch's kernel for blocks of queries and the keys that they see, see `zoo.nn.sparse.block_sparse`.
"""

import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, NamedTuple

import torch

from zoo.nn.masks import CAUSAL, NO_MASK, Mask, Window

HALF = (torch.bfloat16, torch.float16)
CAPPED = "torch's fused kernels do not cap scores"
# On a CPU in half precision, matmul-softmax-matmul is faster than torch's fused kernel up to about this many queries
# and keys (most of all in the backward pass); for more, the N x M scores cost more than they save.
PLAIN_MAX_LENGTH = 512
# For a single query (decoding) plain operations are faster from this many keys on, as the scores are small.
PLAIN_MIN_KEYS = 64
# From this many queries and keys on flex_attention is faster than a fused kernel with mask and bias as a table.
FLEX_MIN_LENGTH = 1024
FLEX_MAX_HEAD_DIM = 256
# Of this installation; constants, because the choice is also made while torch.compile traces a model.
TORCH = (int(torch.__version__.split(".")[0]), int(torch.__version__.split(".")[1]))
BUILD = "ROCm" if torch.version.hip else "" if torch.backends.cuda.is_flash_attention_available() else "no flash"
TRITON = importlib.util.find_spec("triton") is not None
# Scores of all queries and keys that are written out on a GPU where no fused kernel serves: 8 GB in bfloat16, and
# several times that with the softmax and a backward pass.
MAX_SCORES = 1 << 32
KERNELS = ("varlen", "flex", "flash", "cudnn", "efficient", "math")  # that a device may have or not
KernelName = Literal[
    "plain", "sdpa", "varlen", "padded", "groups", "flex", "tiles", "flash", "cudnn", "efficient", "math"
]


@dataclass(frozen=True)
class Capabilities:
    """What torch offers on a device: the record on which the choice of kernels depends.

    device: "cpu", "cuda", ... compute: the compute capability of a GPU, (0, 0) elsewhere. torch: its version.
    missing: those of `KERNELS` that are not there, with the reason. packs: whether rows of different lengths are
    computed in one kernel, instead of in groups of equal length.
    """

    device: str
    compute: tuple[int, int] = (0, 0)
    torch: tuple[int, int] = TORCH
    missing: Mapping[str, str] = field(default_factory=dict)
    # an attribute: torch.compile does not trace a cached_property of Python 3.11, which takes a lock
    packs: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "packs", self.device == "cuda")

    def has(self, kernel: str) -> bool:
        return kernel not in self.missing


RECORDS: dict[torch.device, Capabilities] = {}


class AttentionCall(NamedTuple):
    """What one attention computes. mask: with the pattern of the kind of attention. bias: "learned" if it needs
    gradients. grad: whether a backward pass follows. ragged: rows of different lengths, packed to [1, H, T, P];
    queries and keys are then the longest row. pattern: whether mask or bias are functions of positions that other
    kernels need as a table of queries and keys, see `is_pattern` of `zoo.nn.sparse.flex_attention`.
    softcap: of the scores."""

    dtype: torch.dtype
    heads: int
    kv_heads: int
    head_dim: int
    queries: int
    keys: int
    mask: Mask = NO_MASK
    bias: Literal["none", "fixed", "learned"] = "none"
    dropout: float = 0.0
    grad: bool = False
    ragged: bool = False
    pattern: bool = False
    softcap: float | None = None


class Choice(NamedTuple):
    """A kernel, and why it serves."""

    kernel: KernelName
    reason: str


def choose(record: Capabilities, call: AttentionCall) -> Choice:
    """The kernel of a softmax attention.

    Masks and biases that are functions of positions (`call.pattern`) are "flex" on CUDA, from a measured length on, and
    else "sdpa" with a table of queries and keys. Packed rows (`call.ragged`) with such a mask are "padded".
    """
    if call.ragged:
        return choose_ragged(record, call)
    if record.device != "cpu":
        why_not = "" if not call.pattern else flex_obstacle(record, call)
        if call.pattern and not why_not:
            return Choice("flex", "mask and bias are functions of positions, computed in the kernel")
        if call.softcap is not None:
            return Choice("plain", f"{CAPPED}{f'; no flex: {why_not}' if why_not else ''}")
        if not call.pattern:
            return Choice("sdpa", "torch's fused kernels")
        return Choice("sdpa", f"torch's fused kernels with mask and bias as a table; no flex: {why_not}")
    if call.softcap is not None:
        return Choice("plain", CAPPED)
    if call.dtype in HALF:
        if plain_in_half(call.queries, call.keys):
            return Choice("plain", "short rows in half precision on a CPU")
    elif call.dropout > 0 or call.bias == "learned":
        return Choice("plain", "torch's fused kernel needs more memory for dropout and learned biases on a CPU")
    return Choice("sdpa", "torch's fused kernels")


def plain_in_half(queries: int, keys: int) -> bool:
    """Whether plain operations are faster than torch's fused kernel in half precision on a CPU; measured."""
    return max(queries, keys) <= PLAIN_MAX_LENGTH if queries > 1 else keys >= PLAIN_MIN_KEYS


def flex_obstacle(record: Capabilities, call: AttentionCall) -> str:
    """Why flex_attention cannot serve; empty if it can."""
    if min(call.queries, call.keys) < FLEX_MIN_LENGTH:
        return f"below {FLEX_MIN_LENGTH} queries and keys a table is as fast"
    if limit := flex_limit(record, call):
        return limit
    if call.dtype not in (*HALF, torch.float32):
        return f"it takes float32, bfloat16 and float16, not {str(call.dtype).removeprefix('torch.')}"
    if call.dropout:
        return "it has no dropout on the attention weights"
    return ""


def flex_limit(record: Capabilities, call: AttentionCall) -> str:
    """Why flex_attention takes nothing here: because of the GPU or of the head dimension; empty if it does."""
    if not record.has("flex"):
        return record.missing["flex"]
    if call.head_dim > FLEX_MAX_HEAD_DIM:
        return f"it takes head dimensions up to {FLEX_MAX_HEAD_DIM}, not {call.head_dim}"
    return ""


def choose_ragged(record: Capabilities, call: AttentionCall) -> Choice:
    """The kernel for rows of different lengths: "varlen" where it can, else "padded"; on a CPU "groups"."""
    if not record.packs:
        return Choice("groups", "rows of equal length are computed together")
    why_not = varlen_obstacle(record, call)
    return Choice("padded", f"no varlen: {why_not}") if why_not else Choice("varlen", "rows packed without padding")


def varlen_obstacle(record: Capabilities, call: AttentionCall) -> str:
    """Why varlen cannot serve; empty if it can."""
    if call.dtype not in HALF:
        return f"it takes bfloat16 and float16, not {str(call.dtype).removeprefix('torch.')}"
    if limit := varlen_limit(record, call):
        return limit
    if call.bias != "none":
        return "it adds no position bias"
    if call.softcap is not None:
        return "it does not cap scores"
    if packed_window(call.mask) is None:
        return f"its masks are causal or a window, not {call.mask}"
    return ""


def varlen_limit(record: Capabilities, call: AttentionCall) -> str:
    """Why varlen takes no half precision here: because of the GPU or of the head dimension; empty if it does."""
    if not record.has("varlen"):
        return record.missing["varlen"]
    if call.head_dim % 8 or call.head_dim > 256:
        return f"it takes head dimensions that are multiples of 8 up to 256, not {call.head_dim}"
    if call.grad and call.head_dim > 192 and record.compute not in ((8, 0), (9, 0), (10, 0)):
        return f"it has no backward pass for head dimension {call.head_dim} on this GPU"
    return ""


def check_scores(call: AttentionCall, rows: int, kernel: KernelName, reason: str) -> None:
    """Raise ValueError where a kernel writes out more than `MAX_SCORES` scores of so many rows."""
    scores = rows * call.heads * call.queries * call.keys
    if kernel in ("plain", "math") and scores > MAX_SCORES:
        dtype = str(call.dtype).removeprefix("torch.")
        raise ValueError(
            f"this attention of {call.queries:,} queries and {call.keys:,} keys, with {call.heads} heads of "
            f"{call.head_dim} in {dtype} and {rows} rows, writes out {scores:,} scores: no fused kernel takes it here "
            f"({reason}), and the limit on a GPU is {MAX_SCORES:,}. Use bfloat16, float16 or float32, heads of at most "
            "256 that are a multiple of 8, fewer or shorter rows, or attention='local' or 'linear'"
        )


@cache
def warn_once(message: str) -> None:
    """Warn the first time that this happens in a process."""
    warnings.warn(message, stacklevel=2)


def packed_window(mask: Mask) -> tuple[int, int] | None:
    """The mask as keys before and after the query, -1 for all; None for masks that are not causal or a window."""
    left, right = [], []
    for part in mask.parts():
        if not isinstance(part, Window) and part != CAUSAL:
            return None
        left += [part.left] if isinstance(part, Window) else []
        right.append(part.right if isinstance(part, Window) else 0)
    return min(left, default=-1), min(right, default=-1)


def capabilities(device: torch.device) -> Capabilities:
    """The record of a device; made once."""
    record = RECORDS.get(device)
    if record is None:
        record = RECORDS[device] = detect(device)
    return record


def detect(device: torch.device) -> Capabilities:
    """The record of a device."""
    if device.type != "cuda":
        missing = dict.fromkeys(("varlen", "flex", "cudnn", "efficient"), "only on CUDA")
        missing |= {} if device.type == "cpu" else {"flash": "only on CUDA and CPUs"}
        return Capabilities(device.type, missing=missing)
    compute = torch.cuda.get_device_capability(device)
    return Capabilities("cuda", compute, TORCH, missing_on_cuda(compute, BUILD, TRITON))


def missing_on_cuda(compute: tuple[int, int], build: str, triton: bool) -> dict[str, str]:
    """The kernels that a GPU does not have, with reasons. build: "no flash" or "ROCm" for such builds of torch."""
    this = f"this GPU has {compute[0]}.{compute[1]}"
    missing: dict[str, str] = {}
    if build == "no flash":
        missing |= dict.fromkeys(("varlen", "flash"), "torch is built without flash attention")
    elif build == "ROCm" or compute < (8, 0):
        why = "torch is built for ROCm" if build == "ROCm" else f"it needs compute capability 8.0, {this}"
        missing |= dict.fromkeys(("varlen", "flash", "cudnn"), why)
    if compute < (7, 0) or not triton:
        why = f"it needs compute capability 7.0, {this}" if triton else "the package triton is not installed"
        missing["flex"] = f"torch cannot compile here: {why}"
    return missing
