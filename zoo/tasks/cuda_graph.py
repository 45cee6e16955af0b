"""The forward and the backward pass of a model in training as two CUDA graphs: two launches for all their kernels.

`torch.cuda.make_graphed_callables` does the same for a module, but replaces its `forward`, takes tensors by position
only, and its gradients lie in memory that the next replay overwrites, also where micro-batches accumulate them.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zoo.utils.console import announce
from zoo.utils.cuda_graph import GraphRecorder

CAPTURED_AT = 3  # calls with the same shapes before they are captured: kernels are chosen and loaded by then
INPUTS = {"pixel_values"}  # whose tensors alone decide what a model computes; lengths and masks also decide on the host

Record = Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]


class GraphedModel:
    """Calls a model; in training, batches of one shape go through CUDA graphs. The model itself is not changed.

    The first batches, those of other shapes, and calls in eval mode or without gradients run the model as it is.
    The graphs launch the same kernels, and the random numbers of dropout and drop path follow the seed of the device's
    default generator at each call, so results and gradients should be the same bits. On the one GPU that was tried they
    were not, for a reason that is not known. If a capture fails, all calls run the model, after one message.

    Args:
        model: Maps image tensors to one tensor, without waiting for the device.
        recorder: Creates, for a device, what records a function: returns its result, in memory that stays, and what
            computes it again.
    """

    def __init__(self, model: nn.Module, recorder: Callable[[torch.device], Record] | None = None) -> None:
        self.model, self.recorder = model, recorder or cuda_graph_recorder
        self.graphs: _Graphs | None = None
        self._shapes: Hashable = None
        self._calls: Counter[Hashable] = Counter()
        self._failed = False

    def __call__(self, **inputs: Any) -> Tensor:
        """The result of `model(**inputs)`."""
        if self._failed or not self._fits(inputs):
            return cast(Tensor, self.model(**inputs))
        shapes = tuple((name, x.shape, x.dtype, x.device) for name, x in inputs.items())
        if self.graphs is None:
            self._calls[shapes] += 1
            if self._calls[shapes] <= CAPTURED_AT or not self._capture(inputs):
                return cast(Tensor, self.model(**inputs))
            self._shapes = shapes
        if shapes != self._shapes:
            return cast(Tensor, self.model(**inputs))
        assert self.graphs is not None
        return self.graphs(inputs)

    def _fits(self, inputs: dict[str, Any]) -> bool:
        """Whether a call can be replayed."""
        tensors = inputs.keys() <= INPUTS and all(
            isinstance(x, Tensor) and not x.requires_grad for x in inputs.values()
        )
        return tensors and self.model.training and torch.is_grad_enabled()

    def _capture(self, inputs: dict[str, Tensor]) -> bool:
        """Capture both passes for these shapes; whether that is possible."""
        device = next(iter(inputs.values())).device
        try:
            self.graphs = _Graphs(self.model, inputs, self.recorder(device))
        except RuntimeError as error:
            self._failed = True
            announce(f"training runs without CUDA graphs, hence slower: {str(error).splitlines()[0]}")
            return False
        return True


class _Graphs:
    """Both passes of a model for inputs of one shape, which are copied to where they were recorded."""

    def __init__(self, model: nn.Module, inputs: dict[str, Tensor], record: Record) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.inputs = {name: x.clone() for name, x in inputs.items()}
        self.calls = 0
        device = next(iter(inputs.values())).device.type
        # Casts of weights belong into the graph, and must not be those that an earlier forward pass has kept.
        casts, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        latest: list[Tensor] = []

        def forward() -> Tensor:
            with torch.enable_grad(), torch.autocast(device, dtype, casts, cache_enabled=False):
                latest[:] = [model(**self.inputs)]
            return latest[0]

        def backward() -> tuple[Tensor | None, ...]:
            with torch.autocast(device, enabled=False):
                return torch.autograd.grad(latest[0], self.parameters, self.gradient, allow_unused=True)

        output, self.forward = record(forward)
        self.output, self.gradient = output.detach(), torch.zeros_like(output)
        self.gradients, self.backward = record(backward)
        latest.clear()

    def __call__(self, inputs: dict[str, Tensor]) -> Tensor:
        for name, x in inputs.items():
            self.inputs[name].copy_(x, non_blocking=True)
        return cast(Tensor, _Replay.apply(self, *self.parameters))


class _Replay(torch.autograd.Function):
    """One call: the forward pass of the graphs, and later their backward pass."""

    @staticmethod
    def forward(ctx: Any, graphs: _Graphs, *parameters: Tensor) -> Tensor:
        graphs.forward()
        graphs.calls += 1
        ctx.graphs, ctx.call = graphs, graphs.calls
        return graphs.output.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        graphs = ctx.graphs
        if ctx.call != graphs.calls:
            raise RuntimeError("this backward pass comes after another forward pass of the same CUDA graphs, which has "
                               "overwritten its activations: call backward after each forward, or train with "
                               "cuda_graph=false")  # fmt: skip
        for parameter, stored in zip(graphs.parameters, graphs.gradients, strict=True):
            if stored is not None and parameter.grad is not None and parameter.grad.data_ptr() == stored.data_ptr():
                parameter.grad = parameter.grad.clone()  # of an earlier micro-batch: the replay overwrites it
        graphs.gradient.copy_(gradient)
        graphs.backward()
        return None, *(g if g is None else g.detach() for g in graphs.gradients)


def cuda_graph_recorder(device: torch.device) -> Record:
    """Records functions that are always replayed in this order, hence share memory, each as a CUDA graph."""
    recorder = GraphRecorder(device)

    def record(function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        recorded = recorder.record(function, warm_up=False)
        return recorded.outputs, recorded

    return record
