"""`zoo.kernels`: which kernel computes the attention of each layer for a batch, and why."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.base import Model
from zoo.models.example_batch import example_batch
from zoo.nn.attention import Attention
from zoo.nn.block import Block
from zoo.nn.core import Core
from zoo.nn.padding import Groups
from zoo.nn.sdpa import explain_kernel
from zoo.nn.softmax_attention import SoftmaxAttention


@dataclass(frozen=True)
class LayerKernel:
    """The kernel of one layer. kernel: "flash", "varlen", "plain", ...; for attention without softmax its kind."""

    layer: str
    kernel: str
    reason: str


@dataclass(frozen=True)
class KernelReport:
    """The kernels of all layers that a batch passed through; prints as a table with equal layers in one row."""

    device: str
    layers: tuple[LayerKernel, ...]

    def __str__(self) -> str:
        found: dict[tuple[str, ...], list[int]] = {}
        for layer in self.layers:
            before, number, after, *_ = *re.split(r"(?<=\.)(\d+)(?=\.)", layer.layer, maxsplit=1), "", ""
            numbers = found.setdefault((before, after, layer.kernel, layer.reason), [])
            numbers += [int(number)] if number else []
        names = [f"{before}{ranges(numbers)}{after}" for (before, after, *_), numbers in found.items()]
        rows = [(name, *key[2:]) for name, key in zip(names, found, strict=True)]
        widths = [max(len(row[i]) for row in rows) for i in range(2)]
        lines = [f"{name:<{widths[0]}}  {kernel:<{widths[1]}}  {reason}" for name, kernel, reason in rows]
        return "\n".join([f"attention on {self.device}:", *lines])


def kernels(model: Model, batch: Mapping[str, Any] | None = None) -> KernelReport:
    """Which kernel computes the attention of each layer, and why: found by one forward pass.

    A model in training mode is looked at as in a training step.

    Args:
        batch: The inputs of `model.forward` by name; by default two short rows of what the model takes.

    Raises: ValueError for anything but a zoo.Model.
    """
    if not isinstance(model, Model):
        raise ValueError(f"expected a zoo.Model, given {type(model).__name__}: zoo.load or zoo.create_model makes one")
    if batch is None:
        placed = {name: x.to(model.device) for name, x in example_batch(model).items()}
        batch = {name: x.to(model.dtype) if x.is_floating_point() else x for name, x in placed.items()}
    layers: dict[str, LayerKernel] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            handles += watch(name, module, layers)
        elif isinstance(module, Block) and not isinstance(module.mixer, Attention):
            kind = type(module.mixer).__name__
            layers[f"{name}.mixer"] = LayerKernel(f"{name}.mixer", kind, "it has no attention weights")
    try:
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.set_grad_enabled(model.training), torch.random.fork_rng(devices):
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return KernelReport(str(model.device), tuple(layers.values()))


def watch(name: str, attention: Attention, layers: dict[str, LayerKernel]) -> list[Any]:
    """Hooks that note the kernel of an attention module in `layers` when it runs."""
    groups: Groups | None = None

    def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        nonlocal groups
        groups = (args[1] if len(args) > 1 else kwargs["context"]).groups

    def after(core: Any, args: tuple, output: Tensor) -> None:
        if type(core).forward is SoftmaxAttention.forward:
            # behind them the gates of kinds that have them
            q, k, v, mask, bias = args[:5]
            found = explain_kernel(q, k, v, mask, bias, core.dropout, core.pattern, core.spec.softcap)
            kernel, reason = map(str, found)
        else:
            kernel, reason = getattr(core, "kind", type(core).__name__), "it computes its own attention"
        if groups is not None and kernel != "varlen":
            reason = f"{layout(core, groups)}; {reason}"
        layers[name] = LayerKernel(name, kernel, reason)

    return [
        attention.register_forward_pre_hook(before, with_kwargs=True),
        attention.core.register_forward_hook(after),
    ]


def layout(core: Core, groups: Groups) -> str:
    """How a core gets rows of different lengths, if not packed, and why."""
    if groups.starts is None:
        return "rows of equal length at a time"
    found = [choice.reason for key, (choice, _) in groups.choices.items() if key[:2] == (type(core), core.pattern)]
    return f"rows padded for the attention alone, {found[0]}"


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers with runs shortened: 0, 1, 2, 5 -> "0-2,5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
