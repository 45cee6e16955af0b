"""CUDA graphs: a function is recorded once, and then all its kernels cost one launch."""

import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")
RECORDING = threading.RLock()  # a process records one graph at a time


class Recorded(Generic[T]):
    """A recorded function: a call runs it again and returns its outputs, which each call writes to the same memory.

    function: kept, because the graph reads the tensors that it holds. graph: None where the function is called instead.
    """

    def __init__(self, function: Callable[[], T], graph: Any = None, outputs: T | None = None) -> None:
        self.function, self.graph, self.outputs = function, graph, outputs

    def __call__(self) -> T:
        if self.graph is None:
            return self.function()
        self.graph.replay()
        return self.outputs  # type: ignore[return-value]


class GraphRecorder:
    """Records functions on one CUDA device. On other devices they are not recorded, but called.

    The graphs of a recorder share their memory and the workspaces of their stream: run them within `in_order`, and
    copy their outputs before another one runs.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.stream: Any = None  # on which graphs are recorded
        self.pool: Any = None  # their memory
        self.keeper: Any = None  # a graph of nothing, or the memory would go with the last of them
        self.replayed: Any = None  # event and stream of the last replay

    def is_recording(self) -> bool:
        """Whether the caller is recording a graph, of which this call becomes a part."""
        return torch.cuda.is_current_stream_capturing()

    def record(
        self, function: Callable[[], T], generator: torch.Generator | None = None, *, warm_up: bool = True
    ) -> Recorded[T]:
        """Record what a function does. It must not wait for the device, and do the same in each call.

        Args:
            function: What it reads and writes besides new tensors stays at its address.
            generator: That of its random numbers: each call continues them.
            warm_up: Call it once before: libraries get their memory for the stream then.

        Raises:
            RuntimeError: If CUDA cannot record it, and whatever the function raises.
        """
        if self.device.type != "cuda":
            return Recorded(function)
        with RECORDING, torch.cuda.device(self.device), no_garbage_collection():
            if self.stream is None:
                self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            if generator is not None:
                graph.register_generator_state(generator)
            caller = torch.cuda.current_stream()
            self.stream.wait_stream(caller)
            try:
                with torch.cuda.stream(self.stream):
                    self.keeper = self.keeper or empty_graph(self.pool)
                    if warm_up:
                        function()
                    try:
                        outputs = self.capture(graph, function)
                    except BaseException:
                        with suppress(RuntimeError):  # else the generators would take it that they are still recorded
                            empty_graph(None, generator)
                        raise
            finally:
                caller.wait_stream(self.stream)
        return Recorded(function, graph, outputs)

    def capture(self, graph: Any, function: Callable[[], T]) -> T:
        """The outputs of a function that is recorded on the current stream.

        By hand: after an error `torch.cuda.graph` leaves its own stream the current one, and hides the cause. Errors
        are those of this thread: others may wait for the device meanwhile.
        """
        graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
        try:
            outputs = function()
        except BaseException:
            with suppress(RuntimeError):
                self.end(graph)
            raise
        self.end(graph)
        return outputs

    def end(self, graph: Any) -> None:
        try:
            graph.capture_end()
        except RuntimeError:
            with suppress(RuntimeError):  # else the allocator would take it that the graph is still recorded
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self.pool)
            raise

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """Context of replays: those on other streams are waited for (on the device)."""
        if self.device.type != "cuda":
            yield
            return
        stream = torch.cuda.current_stream(self.device)
        if self.replayed is None:
            self.replayed = torch.cuda.Event(), stream
        event, before = self.replayed
        if before != stream:
            stream.wait_event(event)
        try:
            yield
        finally:
            event.record(stream)
            self.replayed = event, stream

    def __deepcopy__(self, memo: dict[int, Any]) -> "GraphRecorder":
        return GraphRecorder(self.device)  # graphs belong to their memory

    def __reduce__(self) -> Any:
        return GraphRecorder, (str(self.device),)


def empty_graph(pool: Any = None, generator: torch.Generator | None = None) -> Any:
    """A graph of nothing, recorded on the current stream; generator: besides that of the device."""
    graph = torch.cuda.CUDAGraph()
    if generator is not None:
        graph.register_generator_state(generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is empty
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        graph.capture_end()
    return graph


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A context in which no graph or memory of others is freed, which CUDA refuses while it records."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
