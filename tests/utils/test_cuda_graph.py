"""The recorder of CUDA graphs: on a CPU with a fake of torch.cuda, on a GPU with real graphs."""

import copy
import gc
import pickle
from contextlib import contextmanager

import pytest
import torch

from zoo.utils.cuda_graph import GraphRecorder


class FakeCuda:
    """What the recorder calls, in order."""

    def __init__(self, monkeypatch):
        self.calls, self.invalid, self.current = [], False, "caller"
        for name in ("Stream", "CUDAGraph", "stream", "device", "current_stream", "current_device", "Event"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name), raising=False)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
        monkeypatch.setattr(
            torch._C, "_cuda_endAllocateToPool", lambda *a: self.calls.append(("freed", *a)), raising=False
        )

    def Stream(self):
        return FakeStream(self.calls, "side")

    def CUDAGraph(self):
        return FakeGraph(self)

    def Event(self):
        return FakeEvent(self.calls)

    @contextmanager
    def stream(self, stream):
        self.current, before = stream.name, self.current
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def device(self, device):
        yield

    def current_stream(self, device=None):
        return FakeStream(self.calls, self.current)

    def current_device(self):
        return 0


class FakeStream:
    def __init__(self, calls, name):
        self.calls, self.name = calls, name

    def __eq__(self, other):
        return self.name == other.name

    def wait_stream(self, other):
        self.calls.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event):
        self.calls.append(f"{self.name} waits for the event")


class FakeEvent:
    def __init__(self, calls):
        self.calls = calls

    def record(self, stream):
        self.calls.append(f"event on {stream.name}")


class FakeGraph:
    def __init__(self, cuda):
        self.cuda = cuda

    def register_generator_state(self, generator):
        self.cuda.calls.append("generator")

    def capture_begin(self, pool, capture_error_mode):
        assert not gc.isenabled()
        self.cuda.calls.append(f"begin on {self.cuda.current} in {pool}")

    def capture_end(self):
        self.cuda.calls.append("end")
        if self.cuda.invalid:
            raise RuntimeError("operation failed due to a previous error during capture")

    def replay(self):
        self.cuda.calls.append("replay")


@pytest.fixture
def cuda(monkeypatch):
    return FakeCuda(monkeypatch)


def test_a_function_is_recorded_on_a_stream_of_its_own(cuda):
    outputs = torch.ones(2)

    def function():
        cuda.calls.append(f"called on {cuda.current}")
        return outputs

    recorder = GraphRecorder("cuda")
    recorded = recorder.record(function, torch.Generator())
    start = ["generator", "side waits for caller", "begin on side in pool", "end", "called on side"]
    recording = ["begin on side in pool", "called on side", "end", "caller waits for side"]
    assert cuda.calls == start + recording and gc.isenabled() and recorder.keeper is not None
    assert recorded() is outputs and cuda.calls[-1] == "replay" and recorded.function is function
    cuda.calls.clear()
    recorder.record(function, warm_up=False)
    assert cuda.calls == ["side waits for caller", *recording]


@pytest.mark.parametrize("invalid", [False, True])
def test_an_error_leaves_the_caller_its_stream_and_gives_the_cause(cuda, invalid):
    calls = []

    def fails():
        calls.append(1)
        if len(calls) == 2:
            cuda.invalid = invalid
            raise ValueError("the cause")

    with pytest.raises(ValueError, match="the cause"):
        GraphRecorder("cuda").record(fails, torch.Generator())
    assert cuda.current == "caller" and cuda.calls[-1] == "caller waits for side" and gc.isenabled()
    assert cuda.calls[-4:-1] == ["generator", "begin on side in None", "end"]  # for the generators
    assert (("freed", 0, "pool") in cuda.calls) == invalid


def test_an_error_of_cuda_is_raised(cuda):
    def invalidates():
        cuda.invalid = True

    with pytest.raises(RuntimeError, match="previous error during capture"):
        GraphRecorder("cuda").record(invalidates, warm_up=False)
    assert ("freed", 0, "pool") in cuda.calls and cuda.current == "caller"


def test_replays_on_other_streams_are_waited_for(cuda):
    recorder = GraphRecorder("cuda")
    for stream in ("caller", "caller", "other"):
        cuda.current = stream
        with recorder.in_order():
            pass
    assert cuda.calls == ["event on caller", "event on caller", "other waits for the event", "event on other"]


def test_on_other_devices_functions_are_called():
    recorder, calls = GraphRecorder("cpu"), []
    recorded = recorder.record(lambda: calls.append(1) or len(calls))
    with recorder.in_order():
        assert (recorded(), recorded()) == (1, 2)
    for other in (copy.deepcopy(recorder), pickle.loads(pickle.dumps(recorder))):
        assert other.device == recorder.device and other.stream is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_graphs_on_a_gpu():
    recorder, x = GraphRecorder("cuda"), torch.ones(3, device="cuda")
    double, noise = recorder.record(lambda: 2 * x), torch.Generator("cuda").manual_seed(5)
    for error in (lambda: x.tolist(), lambda: x.cpu() / 0, lambda: 1 / 0):
        with pytest.raises((RuntimeError, ZeroDivisionError)):
            recorder.record(error, warm_up=False)
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
        torch.cuda.empty_cache()  # which an allocator that still records refuses
        torch.rand(2, device="cuda")  # as do generators
    random = recorder.record(lambda: torch.rand(4, device="cuda", generator=noise), noise, warm_up=False)
    with recorder.in_order():
        x.fill_(4)
        assert double().tolist() == [8, 8, 8]
        found = [random().clone() for _ in range(2)]
        assert double().tolist() == [8, 8, 8]
    del double, random
    assert recorder.record(lambda: 3 * x)().tolist() == [12, 12, 12]  # in the memory of graphs that are gone
    expected = torch.Generator("cuda").manual_seed(5)
    assert all(torch.equal(y, torch.rand(4, device="cuda", generator=expected)) for y in found)
