"""The parts of a forward pass that belong to the heads that a process computes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from zoo.nn.context import Context
from zoo.nn.index_functions import Index
from zoo.nn.position_biases import Bias, BiasView
from zoo.parallel.collectives import enter


@dataclass(frozen=True)
class HeadRange:
    """The query heads of this process: `count` from `first` on."""

    first: int
    count: int


@dataclass(frozen=True, eq=False)
class HeadBias(Bias):
    """The bias of some heads."""

    inner: Bias
    own: HeadRange

    @property
    def batch(self) -> int:  # type: ignore[override]
        return self.inner.batch

    @property
    def heads(self) -> int:  # type: ignore[override]
        return self.own.count

    @property
    def hides(self) -> bool:  # type: ignore[override]
        return self.inner.hides

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return self.inner.__call__(b, h + self.own.first, q, k)

    def on_device(self, keys: int, device: Any) -> Bias:
        return HeadBias(self.inner.on_device(keys, device), self.own)


def context_of_heads(context: Context, own: HeadRange, group: dist.ProcessGroup) -> Context:
    """A context for the heads of this process: the biases of these, whose gradients are summed over the processes."""
    if context.mask is not None and context.mask.heads > 1:
        raise ValueError(
            f"the mask has a value for each of {context.mask.heads} heads: a plan with tensor= above 1 takes masks "
            "[B, 1, N, M] that all heads share"
        )
    bias = context.bias
    if bias is None:
        return context
    cache = bias.cache if isinstance(bias, BiasView) else None
    if cache is not None and (own, group) in cache:  # that of an earlier layer
        return replace(context, bias=cache[own, group])  # type: ignore[arg-type]
    view = bias if isinstance(bias, BiasView) else BiasView(bias, cache=None)
    inner = with_summed_gradients(view.inner, group)
    inner = HeadBias(inner, own) if inner.heads > 1 else inner
    part: Any = replace(view, inner=inner, cache=None if cache is None else {})
    if cache is not None:
        cache[own, group] = part
    return replace(context, bias=part)


def with_summed_gradients(bias: Bias, group: dist.ProcessGroup) -> Bias:
    """The same bias; what is learned in it gets the sum of the gradients of all processes."""
    changed: dict[str, Any] = {}
    for field in fields(bias):  # type: ignore[arg-type]
        value = getattr(bias, field.name)
        if isinstance(value, Tensor) and value.requires_grad:
            changed[field.name] = enter(value, group)
        elif isinstance(value, Bias):
            changed[field.name] = with_summed_gradients(value, group)
    return replace(bias, **changed) if changed else bias  # type: ignore[type-var]


@contextmanager
def own_random_numbers(group: dist.ProcessGroup, device: torch.device) -> Iterator[None]:
    """Random numbers that differ between the processes; those behind the context are equal again."""
    seed = int(torch.randint(2**62, (), device="cpu"))  # the same in all processes
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(seed + group.rank())
        yield
