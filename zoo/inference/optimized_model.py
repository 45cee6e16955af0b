"""The class of optimized models: inputs and outputs are cast, and what would make it differ from its source raises."""

import threading
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.inference.optimize_report import OptimizeReport
from zoo.inference.optimized_graphs import CudaDevice, Graphs
from zoo.inference.optimized_weights import SourceWeights
from zoo.inference.packed_linear import deep_copy, no_autocast
from zoo.models.base import Model


class CallState(threading.local):
    """What the current thread does with an optimized model: several may call it at the same time."""

    nested = False
    decoding = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "CallState":
        return CallState()


class Optimized:
    """Mixin of optimized models: casts inputs and outputs, and checks that the original weights have not changed.

    optimize_report: what computes each part of the model.
    """

    optimize_report: OptimizeReport

    def attach(self, model: Model, dtype: torch.dtype | None, report: OptimizeReport, cuda_graphs: bool) -> None:
        """Record the weights of the original model, and prepare CUDA graphs where they can be used."""
        self.optimize_report = report
        self.source_ = SourceWeights(model)
        self.dtype_ = dtype
        self.call_state_ = CallState()  # setting attributes of an nn.Module is slow
        self.start_graphs(cuda_graphs)

    def start_graphs(self, enabled: bool) -> None:
        """Prepare the CUDA graphs of this model, if they are enabled and its device has them."""
        device = device_of(self) if enabled else None
        self.graphs_ = None if device is None else Graphs(self, device)  # type: ignore[arg-type]
        self.optimize_report.graphs = {} if self.graphs_ is None else self.graphs_.notes

    def __call__(self, *args: Any, **batch: Any) -> Any:
        return self.run_cast("forward", super().__call__, *args, **batch)  # type: ignore[misc]

    def encode(self, *args: Any, **batch: Any) -> Any:
        return self.run_cast("encode", super().encode, *args, **batch)  # type: ignore[misc]

    def decode(self, input_ids: Tensor, state: Any, *args: Any, **batch: Any) -> Any:
        self.call_state_.decoding = state.length > 0  # weights are checked once per text, not for every token
        try:
            return self.run_cast("decode", super().decode, input_ids, state, *args, **batch)  # type: ignore[misc]
        finally:
            self.call_state_.decoding = False

    def run_cast(self, name: str, call: Callable[..., Any], /, *args: Any, **batch: Any) -> Any:
        """Run `call` in the dtype of this model; nested calls (forward calls encode) are not cast."""
        if self.call_state_.nested:
            return call(*args, **batch)
        decoding, graphs = self.call_state_.decoding, self.graphs_
        self.call_state_.nested = True
        try:
            with torch.no_grad(), no_autocast(self.device):  # type: ignore[attr-defined]
                if graphs is None or decoding:
                    y = to_float32(call(*self.cast_inputs(args), **self.cast_inputs(batch)))
                else:
                    y = graphs.run(name, partial(self.compute, call), args, batch)
        finally:
            self.call_state_.nested = False
        if not decoding:
            self.check_weights()  # a GPU computes meanwhile
        return y

    def compute(self, call: Callable[..., Any], args: tuple[Any, ...], batch: dict[str, Any]) -> Any:
        """`call` with inputs and outputs cast."""
        return to_float32(call(*self.cast_inputs(args), **self.cast_inputs(batch)))

    def cast_inputs(self, value: Any) -> Any:
        """Cast floating point tensors, also in containers."""
        if self.dtype_ is None:
            return value
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(self.dtype_)
        if type(value) in (tuple, list):  # a cache, which is a subclass of list, stays what it is
            return type(value)(self.cast_inputs(v) for v in value)
        return {k: self.cast_inputs(v) for k, v in value.items()} if isinstance(value, dict) else value

    def check_weights(self) -> None:
        """Raises RuntimeError if the weights of the original model have changed."""
        if self.source_.changed():
            raise RuntimeError(
                "the weights of the original model have changed since zoo.optimize: call zoo.optimize again"
            )

    def train(self, mode: bool = True) -> Any:
        if mode:
            raise ValueError("an optimized model is for inference only: train the model it was made from")
        return super().train(False)  # type: ignore[misc]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """`to`, `half`, `cuda` and others: what would change the type or the device is refused."""
        like = torch.empty(0, dtype=self.dtype, device=self.device)  # type: ignore[attr-defined]
        new = fn(like)
        if (new.dtype, new.device) != (like.dtype, like.device):
            raise ValueError(
                "an optimized model stays where and as it is: move or cast the model it was made from, and optimize it "
                "again (zoo.optimize has dtype=)"
            )
        return self

    def reset_head(self, num_classes: int, seed: int = 0) -> None:
        raise ValueError("an optimized model is for inference only: reset the head of the model it was made from")

    def __copy__(self) -> Any:
        new = object.__new__(type(self))
        new.__dict__.update(vars(self))
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        new = deep_copy(self, memo)
        new.start_graphs(self.graphs_ is not None)
        return new

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ValueError(
            "an optimized model cannot be pickled: pickle the model it was made from, and optimize it again"
        )

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        raise ValueError("an optimized model stores its weights in another layout: save the model it was made from")


def casting_method(name: str) -> Callable[..., Any]:
    """The method `name` of an optimized model with inputs and outputs cast, as in `encode`."""

    def method(self: Any, *args: Any, **batch: Any) -> Any:
        return self.run_cast(name, getattr(super(Optimized, self), name), *args, **batch)

    return method


def device_of(model: Any) -> CudaDevice | None:
    """The device on which calls are recorded as graphs; None on a CPU, which launches nothing."""
    return CudaDevice(model.device) if model.device.type == "cuda" else None


def to_float32(value: Any) -> Any:
    """Cast floating point tensors of half precision to float32, also in containers and dataclasses."""
    if isinstance(value, Tensor):
        return value.to(torch.promote_types(value.dtype, torch.float32)) if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(to_float32(v) for v in value)
    if isinstance(value, dict):
        return {name: to_float32(v) for name, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: to_float32(getattr(value, f.name)) for f in fields(value)})
    return value


def detach_and_cast(model: nn.Module, dtype: torch.dtype | None) -> None:
    """Replace parameters by constants, which share the memory of those of the original model unless they are cast.

    A parameter that has several names, as tied embeddings do, remains one.
    """
    constants: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, p in list(module._parameters.items()):
            if p is not None:
                new = p.detach().to(dtype if p.is_floating_point() else None)
                module._parameters[name] = constants.setdefault(id(p), nn.Parameter(new, requires_grad=False))
        for name, b in list(module._buffers.items()):
            if b is not None and b.is_floating_point():
                module._buffers[name] = b.to(dtype)
