"""Block masks of flex_attention: which blocks of 128 queries and 128 keys are empty, full or partly masked.

torch's `create_block_mask` evaluates a mask for all pairs of positions at once, which takes gigabytes for long
sequences. Here the predicate is evaluated in blocks, and what does not depend on the batch is kept for later forwards.
"""

import functools
import itertools
import threading
import types
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from zoo.nn.index_functions import Index, IndexFunction
from zoo.nn.masks import Mask, MaskView
from zoo.nn.sparse.block_pairs import block_pairs
from zoo.nn.sparse.mask_bounds import Spans

BLOCK = 128  # flex_attention's own block size
LISTS = (  # of blocks, in a `BlockMask`: partly masked and full ones, of each block of queries and of keys
    *("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices"),
    *("q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices"),
)
# Pairs of positions that are evaluated at a time: 32 MB for each int64 intermediate of a predicate.
CHUNK = 1 << 22
BACKEND = "inductor"  # of torch.compile; tests on a CPU have another one
CONSTANTS = (bool, int, float, str, bytes, Enum, torch.dtype, torch.device)
MAX_KEPT_BYTES = 256 << 20  # a block mask takes 0.3 MB at 16,384 tokens and 4 MB at 65,536

_kept: "OrderedDict[Hashable, Any]" = OrderedDict()
_recorded: dict[Hashable, Any] = {}  # those whose memory a CUDA graph reads in each replay: they are never dropped
_lock = threading.Lock()
_copies = itertools.count()


class Blocks(NamedTuple):
    """A block mask and the predicate that is evaluated in its partly masked blocks, on the device."""

    mask: Mask
    block_mask: BlockMask


def blocks_of(mask: Mask, queries: int, keys: int, device: torch.device) -> Blocks:
    """The block mask of `mask` for flex_attention, the same as torch's `create_block_mask` gives.

    With fewer queries than keys the queries are the last positions, as in `mask.dense`. Masks that hold no tensors are
    kept for later calls, up to 256 MB. Building one takes at most 200 MB, whatever the length, and a time that grows
    with the blocks that are not empty, if the mask has bounds (`zoo.nn.sparse.mask_bounds`).
    """
    if isinstance(mask, MaskView) and not mask.depends_on_batch:
        mask = mask.inner

    def build() -> Blocks:
        own = mask.on_device(keys, device)
        if torch.compiler.is_compiling():  # the compiler fuses the counts, without intermediates
            lists = lists_of(own, queries, keys, device)
        elif is_constant(mask) and mask.batch == mask.heads == 1 and not is_recording():  # it copies from the host
            lists = from_counts(count_in_pairs(mask, own, queries, keys, device))
        elif device.type == "cuda" and not is_constant(mask):  # in every forward: a few kernels, compiled
            lists = compiled_lists(signature(own))(own, queries, keys, device)
        else:
            lists = lists_in_chunks(own, queries, keys, device)
        shift = 0 if own.q is not None else keys - queries
        options: dict[str, Any] = dict(zip(LISTS, lists, strict=True), BLOCK_SIZE=(BLOCK, BLOCK))
        return Blocks(own, BlockMask(seq_lengths=(queries, keys), mask_mod=mask_mod(own, shift), **options))

    if torch.compiler.is_compiling() or not is_constant(mask):
        return build()
    return kept(("blocks", mask, queries, keys, device), build)


def kept(key: Hashable, build: Callable[[], Any]) -> Any:
    """The value of `key`, built on first use. Those least recently used are dropped beyond `MAX_KEPT_BYTES`.

    What is built while a CUDA graph is recorded is a part of the graph, computed in each replay, and is not kept.
    """
    recording = is_recording()
    with _lock:
        value = _kept.get(key, _recorded.get(key))
        if value is not None:
            if key in _kept:
                _kept.move_to_end(key)
            if recording:
                _recorded[key] = value
            return value
    with torch.inference_mode(False), torch.no_grad():  # a later forward may need it in its backward pass
        value = build()
    if recording:
        return value
    with _lock:
        _kept[key] = value
        while len(_kept) > 1 and sum(map(size_in_bytes, _kept.values())) > MAX_KEPT_BYTES:
            _kept.popitem(last=False)
    return value


def is_recording() -> bool:
    """Whether a CUDA graph is being recorded."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def size_in_bytes(value: Any) -> int:
    """Bytes of the tensors of a block mask, of tiles, or of a bias."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    tensors = value.block_mask.as_tuple() if isinstance(value, Blocks) else vars(value).values()
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))


def mask_mod(mask: Mask, shift: int) -> Callable[[Index, Index, Index, Index], Tensor]:
    """The mask as flex_attention calls it. A function: the compiler compares functions by their code and contents, so
    equal masks share one kernel."""

    def allowed(b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return mask.__call__(b, h, q + shift if shift else q, k)

    return allowed


def count_allowed(
    mask: Mask, queries: int, keys: int, device: torch.device, first: int = 0, rows: int | None = None
) -> Tensor:
    """Pairs that `mask` allows in each block, [B or 1, H or 1, rows, blocks of keys], for `rows` blocks of queries
    from block `first` on."""
    down, across = -(-queries // BLOCK) - first if rows is None else rows, -(-keys // BLOCK)
    b = torch.arange(mask.batch, device=device).view(-1, 1, 1, 1, 1, 1)
    h = torch.arange(mask.heads, device=device).view(1, -1, 1, 1, 1, 1)
    q = torch.arange(first * BLOCK, (first + down) * BLOCK, device=device).view(1, 1, down, 1, BLOCK, 1)
    k = torch.arange(across * BLOCK, device=device).view(1, 1, 1, across, 1, BLOCK)
    inside = (q < queries) & (k < keys)  # the last blocks may reach beyond the sequence
    shift = 0 if mask.q is not None else keys - queries
    allowed = mask.__call__(b, h, q.clamp(max=queries - 1) + shift, k.clamp(max=keys - 1)) & inside
    return allowed.sum((-2, -1), dtype=torch.int32)


def count_in_chunks(mask: Mask, queries: int, keys: int, device: torch.device) -> Tensor:
    """`count_allowed` for all queries, a few blocks of them at a time."""
    rows = max(1, CHUNK // (mask.batch * mask.heads * BLOCK * (keys + BLOCK)))
    blocks = -(-queries // BLOCK)
    parts = [
        count_allowed(mask, queries, keys, device, first, min(rows, blocks - first)) for first in range(0, blocks, rows)
    ]
    return torch.cat(parts, 2)


def count_in_pairs(mask: Mask, own: Mask, queries: int, keys: int, device: torch.device) -> Tensor:
    """`count_allowed` for all queries of a mask without tensors, evaluated in those blocks alone in which its bounds
    allow a pair. own: the mask on the device."""
    shift, inside = keys - queries, torch.arange(BLOCK, device=device)
    first = [torch.arange(0, count, BLOCK) for count in (queries, keys)]
    last = [(f + BLOCK - 1).clamp(max=count - 1) for f, count in zip(first, (queries, keys), strict=True)]
    pairs = block_pairs(
        mask, Spans(first[0][None] + shift, last[0][None] + shift), Spans(first[1][None], last[1][None])
    )
    pairs, across = pairs.to(device), len(first[1])
    counts = torch.zeros(len(first[0]) * across, dtype=torch.int32, device=device)
    zero = torch.zeros(1, 1, 1, dtype=torch.long, device=device)
    for part in pairs.split(max(1, CHUNK // BLOCK**2)):
        q = (part // across * BLOCK)[:, None, None] + inside[:, None]
        k = (part % across * BLOCK)[:, None, None] + inside
        allowed = own.__call__(zero, zero, q.clamp(max=queries - 1) + shift, k.clamp(max=keys - 1))
        counts[part] = (allowed & (q < queries) & (k < keys)).sum((-2, -1), dtype=torch.int32)
    return counts.view(1, 1, -1, across)


def lists_of(mask: Mask, queries: int, keys: int, device: torch.device) -> list[Tensor]:
    """The `LISTS` of a mask."""
    return from_counts(count_allowed(mask, queries, keys, device))


def lists_in_chunks(mask: Mask, queries: int, keys: int, device: torch.device) -> list[Tensor]:
    """`lists_of`, counted a few blocks at a time."""
    return from_counts(count_in_chunks(mask, queries, keys, device))


def from_counts(counts: Tensor) -> list[Tensor]:
    """`lists_of` from the numbers of allowed pairs."""
    full = counts == BLOCK * BLOCK
    partial = (counts > 0) & ~full
    return [part for blocks in (partial, full, partial.mT, full.mT) for part in in_order(blocks)]


def in_order(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The number of blocks that are marked in each row, and all blocks with those first: a stable sort, in few
    operations."""
    upto = blocks.cumsum(-1, dtype=torch.int32)
    number, index = upto[..., -1], torch.arange(blocks.shape[-1], dtype=torch.int32, device=blocks.device)
    place = torch.where(blocks, upto - 1, number[..., None] + index - upto)
    order = torch.zeros_like(place, memory_format=torch.contiguous_format)
    return number.contiguous(), order.scatter(-1, place.long(), index.expand(place.shape))


def is_constant(function: IndexFunction) -> bool:
    """Whether a mask or bias is a frozen dataclass of constants, so that equal ones keep equal values."""
    cls = type(function)
    if not is_dataclass(cls) or not cls.__dataclass_params__.frozen:
        return False
    held = vars(function)
    return held.keys() <= {f.name for f in fields(cls)} and all(map(is_constant_value, held.values()))


def is_constant_value(value: Any) -> bool:
    """Whether a value never changes; lists, dicts, tensors, functions and other objects may."""
    if isinstance(value, IndexFunction):
        return is_constant(value)
    if isinstance(value, tuple | frozenset):
        return all(map(is_constant_value, value))
    return value is None or isinstance(value, CONSTANTS)


def signature(function: IndexFunction | None) -> Hashable:
    """What the code of a mask or bias depends on: its types, numbers and the kinds of its tensors, not their values."""
    if function is None:
        return None
    entries: list[Any] = [type(function)]
    for name, value in vars(function).items():
        if not isinstance(value, dict):  # the caches of a forward
            entries.append((name, signature_of_value(value)))
    return tuple(entries)


def signature_of_value(value: Any) -> Hashable:
    if isinstance(value, IndexFunction):
        return signature(value)
    if isinstance(value, Tensor):
        return value.dtype, value.ndim, value.requires_grad
    if isinstance(value, list | tuple):
        return type(value), tuple(map(signature_of_value, value))
    found: Hashable = value
    return found


def own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a function with a code object of its own.

    torch limits how often it compiles one code object (8 times); with a copy for each pattern the limit holds for each.
    """
    code = function.__code__.replace(co_name=f"{function.__name__}_{next(_copies)}")
    return types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, None)


class CompiledLists:
    """`lists_of` in a few kernels, for masks that differ in each forward; in chunks where torch cannot compile it."""

    def __init__(self) -> None:
        self.lists: Callable[..., list[Tensor]] = torch.compile(own_code(lists_of), fullgraph=True, backend=BACKEND)

    def __call__(self, *args: Any) -> list[Tensor]:
        try:
            return self.lists(*args)
        except Exception as error:
            if self.lists is lists_in_chunks or not is_compile_error(error):
                raise
            self.lists = lists_in_chunks
            return self.lists(*args)


@functools.lru_cache(maxsize=64)
def compiled_lists(key: Hashable) -> CompiledLists:
    """One for each `signature` of masks."""
    return CompiledLists()


def is_compile_error(error: Exception) -> bool:
    """Whether torch could not compile something, as opposed to an error of what is computed."""
    errors = torch._dynamo.exc
    return isinstance(error, (errors.TorchDynamoException, errors.FailOnRecompileLimitHit))
