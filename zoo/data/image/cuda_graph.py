"""Replay a function of tensors as one CUDA graph, so that hundreds of small kernels cost one launch."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.utils.console import announce
from zoo.utils.cuda_graph import GraphRecorder

Function = Callable[[dict[str, Tensor]], dict[str, Tensor]]

CAPTURED_AT = 8  # calls with the same shapes before they are captured: a shape that is rare never is
MOST_GRAPHS = 4


class CudaGraphs:
    """Calls a function of named CUDA tensors, through a CUDA graph for shapes that come again.

    The function must launch the same kernels in each call, with results that depend on its tensors and on `key` only.
    Results are copies: they stay valid. If a capture fails, all calls run the function, after one message.

    Args:
        name: What the function does, for the message.
    """

    def __init__(self, name: str):
        self.name = name
        self._calls: Counter[Hashable] = Counter()
        self._recorders: dict[torch.device, GraphRecorder] = {}
        self._graphs: dict[Hashable, tuple[Callable[[], dict[str, Tensor]], dict[str, Tensor]]] = {}
        self._failed = False

    def __call__(self, function: Function, inputs: Mapping[str, Tensor], key: Hashable = None) -> dict[str, Tensor]:
        """The result of `function(inputs)`; key: what it depends on besides its inputs."""
        shapes = (key, *((name, x.shape, x.dtype, x.device) for name, x in inputs.items()))
        self._calls[shapes] += 1
        if shapes not in self._graphs:
            ready = self._calls[shapes] > CAPTURED_AT and len(self._graphs) < MOST_GRAPHS and not self._failed
            if not ready or not self._capture(shapes, function, inputs):
                return function(dict(inputs))
        replay, stored = self._graphs[shapes]
        with self._recorder(stored).in_order():
            for name, x in inputs.items():
                stored[name].copy_(x, non_blocking=True)
            return {name: x.clone() for name, x in replay().items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> "CudaGraphs":
        return CudaGraphs(self.name)  # a graph belongs to its memory

    def __reduce__(self) -> Any:
        return CudaGraphs, (self.name,)

    def _capture(self, shapes: Hashable, function: Function, inputs: Mapping[str, Tensor]) -> bool:
        """Capture the function for these shapes; whether that is possible."""
        stored = {name: x.clone() for name, x in inputs.items()}
        try:
            self._graphs[shapes] = (
                self._recorder(stored).record(lambda: function(dict(stored)), warm_up=False),
                stored,
            )
        except RuntimeError as error:
            self._failed = True
            announce(f"{self.name} runs without a CUDA graph, hence slower: {str(error).splitlines()[0]}")
            return False
        return True

    def _recorder(self, inputs: Mapping[str, Tensor]) -> GraphRecorder:
        device = next(iter(inputs.values())).device
        return self._recorders.setdefault(device, GraphRecorder(device))
