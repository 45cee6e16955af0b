"""Tensors that are sharded over processes (DTensors): the part of each process, and reading and gathering them."""

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from zoo.utils.distributed import in_group

T = TypeVar("T")


def is_sharded(tensors: Iterable[Tensor]) -> bool:
    """Whether any of the tensors is sharded."""
    return any(hasattr(tensor, "device_mesh") for tensor in tensors)  # importing DTensor takes half a second


def region(tensor: Tensor) -> tuple[slice, ...]:
    """The part of the whole tensor that this process holds, which may be empty."""
    if not is_sharded([tensor]):
        return tuple(slice(0, size) for size in tensor.shape)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    sharded: Any = tensor
    sizes, offsets = compute_local_shape_and_global_offset(tensor.shape, sharded.device_mesh, sharded.placements)
    return tuple(slice(offset, offset + size) for offset, size in zip(offsets, sizes, strict=True))


def local(tensor: Any) -> Tensor:
    """The values that this process holds of a tensor."""
    return tensor.to_local() if is_sharded([tensor]) else tensor


def whole(tensor: Any) -> Tensor:
    """The whole tensor; every process of a sharded one must call it."""
    return tensor.full_tensor() if is_sharded([tensor]) else tensor


@torch.no_grad()
def fill(tensor: Tensor, read: Callable[[tuple[slice, ...]], Tensor]) -> Tensor:
    """Set the part of a tensor that this process holds; returns the values.

    read: gives the values of a part of the whole tensor.
    """
    part, own = region(tensor), local(tensor.detach())
    if own.numel():
        own.copy_(read(part).reshape(own.shape))
    return own


def stream_to_rank_zero(tensors: Mapping[str, Tensor], order: Iterable[str],
                        write: Callable[[Iterator[tuple[str, Tensor]]], T],
                        holders: Mapping[str, int] | None = None) -> T | None:  # fmt: skip
    """Run `write` on rank 0 with the whole tensors, one after the other; every process calls this.

    A process holds one whole tensor at a time. Returns the result of `write` on rank 0, None elsewhere. What it raises
    is raised by every process, once all tensors are gathered: none waits for another that has failed.

    holders: the first process that has a part of each tensor, where not all of them do: tensors of other processes are
        on the meta device.
    """
    stream = ((name, _received(tensors, name, 0 if holders is None else holders[name])) for name in order)
    result, error = None, None
    if dist.get_rank() == 0:
        try:
            result = write(stream)
        except Exception as caught:
            error = caught
    for _ in stream:
        del _
    raise_together(error)
    return result


def _received(tensors: Mapping[str, Tensor], name: str, holder: int) -> Tensor:
    """A whole tensor on rank 0, and in the processes that have a part of it."""
    tensor = tensors[name] if tensors[name].is_meta else whole(tensors[name])
    if holder and dist.get_rank() == holder:
        dist.send(tensor.contiguous(), 0)
    elif holder and dist.get_rank() == 0:
        device = next(x.device for x in tensors.values() if not x.is_meta)
        tensor = torch.empty_like(tensor, device=device)
        dist.recv(tensor, holder)
    return tensor


def raise_together(error: Exception | None) -> None:
    """Raise the error of the lowest rank that has one in every process, which all call this. Waits for all of them.

    Other processes raise it with a note that names the process; one that cannot be sent to them as a RuntimeError with
    its type and message.
    """
    if not in_group():
        if error is not None:
            raise error
        return
    errors: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(errors, None if error is None else _sendable(error))
    if error is not None:
        raise error
    for rank, found in enumerate(errors):
        if found is not None:
            kind, arguments = found
            raised = kind(*arguments)
            raised.add_note(f"raised in process {rank} of {len(errors)}")
            raise raised


def _sendable(error: Exception) -> tuple[type[Exception], tuple[Any, ...]]:
    """The type and arguments of an error, or of one that says the same, that other processes can make it of."""
    try:
        kind, arguments = pickle.loads(pickle.dumps((type(error), error.args)))
        if str(kind(*arguments)) == str(error):
            return kind, arguments
    except Exception:  # whatever the arguments raise when they are pickled
        pass
    return RuntimeError, (f"process {dist.get_rank()} failed with {type(error).__name__}: {error}",)


@contextmanager
def together(when: bool = True) -> Iterator[None]:
    """What one process raises in the block, all of them raise at its end, as by `raise_together`.

    when: False for a block that this process is alone in.
    """
    error = None
    try:
        yield
    except Exception as caught:
        if not when:
            raise
        error = caught
    if when:
        raise_together(error)
