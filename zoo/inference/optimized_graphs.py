"""CUDA graphs of an optimized model: a call that takes longer to launch than to compute is recorded and replayed.

A small batch is bound by its launches: ViT-B computes one image in 0.66 ms and launches its kernels in 2.7 ms (H100).
"""

import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from zoo.nn.padding import real_tokens
from zoo.utils.cuda_graph import GraphRecorder

WARM_UP = 1  # calls of a signature that are neither timed nor recorded: they load libraries and compile
TIMED = 2  # calls that are timed; the call after them is recorded, if launching is what takes their time
LAUNCH_BOUND = 0.8  # the share of the time of a call that launching takes, from which it is recorded
MOST_GRAPHS = 8  # of a model; the one that was not called for the longest time is dropped
MOST_SIGNATURES = 256  # that are remembered
# Masks, and the inputs of which they mark the padding: the first one that is there.
MASKS = {"attention_mask": ("input_ids", "input_values"), "audio_attention_mask": ("input_values", "input_features")}
LENGTHS = {"attention_mask": "lengths", "audio_attention_mask": "audio_lengths"}  # of the masks, on the host
COUNTING = threading.RLock()  # a process counts the waits of one thread at a time
PADDED_IN_A_ROW = 8  # batches after which only every eighth mask is looked at, as that waits for the device
CONSTANTS = (bool, int, float, str)

Function = Callable[[], Any]


class UnsupportedValueError(Exception):
    """A value that a graph can neither take nor return, such as a cache or a tensor of another device."""


class CudaDevice(GraphRecorder):
    """What graphs need of a CUDA device, in one place: tests put another one in its place."""

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def count_waits(self, function: Function) -> tuple[Any, int]:
        """(the result of a function, how often it waited for the device).

        Waits of other threads do not count, though the mode in which torch warns of them is that of the process.
        """
        waits, thread = [0], threading.get_ident()
        others: list[tuple[Any, ...]] = []

        def show(message: Any, category: Any, filename: str, lineno: int, *more: Any) -> None:
            if "called a synchronizing CUDA operation" in str(message):
                waits[0] += threading.get_ident() == thread
            elif "Synchronization debug mode" not in str(message):
                others.append((message, category, filename, lineno))

        with COUNTING:
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.showwarning = show  # type: ignore[assignment]
                before = torch.cuda.get_sync_debug_mode()
                torch.cuda.set_sync_debug_mode("warn")
                try:
                    result = function()
                finally:
                    torch.cuda.set_sync_debug_mode(before)
            for warning in others:
                warnings.warn_explicit(*warning)
        return result, waits[0]


@dataclass
class Trial:
    """A signature that is not recorded yet. launching, total: seconds of its fastest call."""

    calls: int = 0
    launching: float = 0.0
    total: float = float("inf")

    def add(self, launching: float, total: float) -> None:
        if total < self.total:
            self.launching, self.total = launching, total


@dataclass
class Replay:
    """A recorded call: what runs it, and the tensors that it reads."""

    run: Function
    inputs: list[Tensor]


class Graphs:
    """The graphs of one model.

    A signature is the method that was called, the shapes and dtypes of the tensors and all other arguments. Of each, a
    first call warms up, two are timed, and the next one is recorded if launching took at least 80 % of the time.

    device: see `CudaDevice`. notes: what became of each signature, in words.
    """

    def __init__(self, model: nn.Module, device: Any) -> None:
        self.device, self.place = device, next(model.parameters()).device
        self.lock = threading.Lock()
        self.known: OrderedDict[Any, Trial | Replay | None] = OrderedDict()  # None: called without a graph
        self.notes: dict[str, str] = {}
        self.hooks = [t for module in model.modules() for t in (module._forward_hooks, module._forward_pre_hooks)]
        self.out_of_memory, self.padded = False, 0  # padded batches in a row

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Graphs read the memory of one model; `Optimized.__deepcopy__` makes those of a copy."""

    def run(self, name: str, compute: Callable[..., Any], args: tuple[Any, ...], batch: Mapping[str, Any]) -> Any:
        """compute(args, batch) of the method `name`, by a graph where that is faster."""
        if any(self.hooks) or _has_any_global_hook() or torch.compiler.is_compiling() or self.device.is_recording():
            return compute(args, batch)  # hooks see the tensors of each call
        waits = any(batch.get(LENGTHS[name]) is None and isinstance(batch.get(name), Tensor) for name in MASKS)
        if waits and self.padded >= PADDED_IN_A_ROW and self.padded % PADDED_IN_A_ROW:
            self.padded += 1
            return compute(args, batch)
        inputs: list[Tensor] = []
        try:
            full = without_full_masks(batch)
            key = name, key_of(args, self.place, inputs), key_of(full, self.place, inputs)
        except UnsupportedValueError:
            self.padded += waits
            return compute(args, batch)
        if waits:
            self.padded = 0
        batch = full
        with self.lock:
            entry = self.known.setdefault(key, Trial())
            self.known.move_to_end(key)
            if len(self.known) > MOST_SIGNATURES:
                self.forget(next(iter(self.known)))
            if isinstance(entry, Trial) and entry.calls >= WARM_UP + TIMED:
                entry = self.known[key] = self.decide(key, entry, compute, args, batch, inputs)
            if isinstance(entry, Replay):
                return self.replay(entry, inputs)
        if entry is None or entry.calls < WARM_UP:
            y = compute(args, batch)
        else:
            y = self.time(key, entry, lambda: compute(args, batch))
        if isinstance(entry, Trial):
            entry.calls += 1
        return y

    def time(self, key: Any, trial: Trial, function: Function) -> Any:
        """The result of a function, whose launching and computing is timed."""
        self.device.synchronize()
        start = time.perf_counter()
        y, waits = self.device.count_waits(function)
        launched = time.perf_counter()
        self.device.synchronize()
        trial.add(launched - start, time.perf_counter() - start)
        if waits:
            self.known[key] = None
            self.notes[described(key)] = "launched: it waits for the device, as data decides what is computed"
        return y

    def decide(
        self, key: Any, trial: Trial, compute: Callable[..., Any], args: Any, batch: Any, inputs: list[Tensor]
    ) -> Replay | None:
        """Record a call, if launching it is what takes its time and it can be recorded."""
        text, milliseconds = described(key), f"{1e3 * trial.total:.2f} ms"
        if trial.launching < LAUNCH_BOUND * trial.total:
            self.notes[text] = f"launched: computing takes longer ({milliseconds})"
            return None
        if self.out_of_memory:
            return None
        self.drop_graph()
        try:
            with torch.inference_mode(False), torch.no_grad():
                replay = self.record(compute, args, batch, inputs)
        except torch.OutOfMemoryError:
            self.out_of_memory = True
            self.notes[text] = "launched: not enough memory for its graph"
            warnings.warn("no memory for more CUDA graphs: further calls are launched kernel by kernel", stacklevel=5)
            return None
        except Exception as error:  # what cannot be recorded can still be called
            self.notes[text] = (
                f"launched: it cannot be recorded ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
            )
            return None
        self.notes[text] = f"graph, launched in {milliseconds}"
        return replay

    def record(self, compute: Callable[..., Any], args: Any, batch: Any, inputs: list[Tensor]) -> Replay:
        own = [tensor.clone() for tensor in inputs]
        static = iter(own)
        arguments = map_tensors(lambda _: next(static), args), map_tensors(lambda _: next(static), dict(batch))
        return Replay(self.device.record(lambda: compute(*arguments)), own)

    def replay(self, entry: Replay, inputs: list[Tensor]) -> Any:
        """Run a recorded call on other inputs."""
        with self.device.in_order():
            for own, tensor in zip(entry.inputs, inputs, strict=True):
                own.copy_(tensor)
            return map_tensors(Tensor.clone, entry.run())

    def drop_graph(self) -> None:
        """Make room for one more graph."""
        recorded = [key for key, entry in self.known.items() if isinstance(entry, Replay)]
        if len(recorded) >= MOST_GRAPHS:
            self.forget(recorded[0])

    def forget(self, key: Any) -> None:
        """Start over with a signature."""
        if isinstance(self.known.pop(key), Replay):
            self.device.synchronize()  # it may still run
        self.notes.pop(described(key), None)


def without_full_masks(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """A batch without the masks that hide nothing: the same to the model. Without lengths, each mask is waited for.

    Raises UnsupportedValueError for padding, which decides what is computed.
    """
    masks = [name for name in MASKS if isinstance(batch.get(name), Tensor)]
    if not masks:
        return batch
    for name in masks:
        lengths = batch.get(LENGTHS[name])
        if isinstance(lengths, Tensor) and lengths.device.type == "cpu":
            lengths = lengths.tolist()
        mask = batch[name]
        main = next((batch[other] for other in MASKS[name] if isinstance(batch.get(other), Tensor)), None)
        if main is None or mask.shape != main.shape[:2]:
            raise UnsupportedValueError
        if lengths is None:
            if real_tokens(mask) is not None:
                raise UnsupportedValueError
        elif not isinstance(lengths, list | tuple) or [*lengths] != [mask.shape[1]] * len(mask):
            raise UnsupportedValueError
        else:
            torch._assert_async((mask != 0).all(), f"{LENGTHS[name]}= must be the sums of the rows of {name}, 0 or 1")
    dropped = {*masks, *map(LENGTHS.get, masks)}
    return {name: value for name, value in batch.items() if name not in dropped}


def key_of(value: Any, device: torch.device, tensors: list[Tensor]) -> Any:
    """What a value must be equal in for a graph to take it; its tensors are appended to `tensors`, in order."""
    if type(value) in (Tensor, nn.Parameter) and value.device == device and value.layout == torch.strided:
        tensors.append(value)
        return value.shape, value.dtype
    if value is None or type(value) in CONSTANTS:
        return type(value), value
    if type(value) in (tuple, list):
        return type(value), tuple([key_of(v, device, tensors) for v in value])
    if type(value) is dict:
        return dict, tuple([(name, key_of(v, device, tensors)) for name, v in value.items()])
    raise UnsupportedValueError


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """A value with `function` applied to its tensors, in containers and dataclasses, too.

    Raises UnsupportedValueError for others than these and constants.
    """
    if isinstance(value, Tensor):
        return function(value)
    if value is None or type(value) in CONSTANTS:
        return value
    if type(value) in (tuple, list):
        return type(value)(map_tensors(function, v) for v in value)
    if isinstance(value, dict):
        return {name: map_tensors(function, v) for name, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: map_tensors(function, getattr(value, f.name)) for f in fields(value)})
    raise UnsupportedValueError(f"it takes or returns a {type(value).__name__}")


def described(key: Any) -> str:
    """A signature in words: "forward(pixel_values [1, 3, 224, 224])"."""
    name, (_, args), (_, batch) = key
    parts = [described_value(value) for value in args]
    parts += [f"{name}={described_value(value)}" for name, value in batch]
    return f"{name}({', '.join(parts)})"


def described_value(key: Any) -> str:
    first, second = key
    if isinstance(first, torch.Size):
        return f"{list(first)} {str(second).removeprefix('torch.')}"
    return f"{first.__name__}" if first in (tuple, list, dict) else repr(second)
