"""A function replayed as a CUDA graph gives what it gives by itself; the graph is faked where there is no GPU."""

import copy
import pickle
from typing import Any

import cuda_graph_fakes
import pytest
import torch
from torch import Tensor

from zoo.data.augment_config import AugmentSettings
from zoo.data.image import cuda_graph
from zoo.data.image.augment import Augment
from zoo.data.image.cuda_graph import CAPTURED_AT, MOST_GRAPHS, CudaGraphs

calls: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []  # of the function: its inputs and results


def double(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    results = {"y": 2 * inputs["x"], "x": inputs["x"]}
    calls.append((inputs, results))
    return results


class FakeRecorder(cuda_graph_fakes.FakeRecorder):
    def record(self, function: Any, generator: Any = None, *, warm_up: bool = True) -> Any:
        replay = super().record(function, generator, warm_up=warm_up)
        count = len(calls)

        def run() -> Any:
            results = replay()
            del calls[count:]  # a graph does not call the function
            return results

        return run


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> CudaGraphs:
    calls.clear()
    monkeypatch.setattr(cuda_graph, "GraphRecorder", FakeRecorder)
    return CudaGraphs("doubling")


def test_frequent_shapes_are_replayed_with_new_values(graphs: CudaGraphs) -> None:
    kept = [graphs(double, {"x": torch.full((3,), float(i))}) for i in range(CAPTURED_AT + 4)]
    assert len(calls) == CAPTURED_AT + 1
    for i, results in enumerate(kept):
        assert torch.equal(results["y"], torch.full((3,), 2.0 * i)) and torch.equal(results["x"], torch.full((3,), i))


def test_other_shapes_and_keys_have_their_own_graph(graphs: CudaGraphs) -> None:
    for key in range(MOST_GRAPHS + 1):
        for _ in range(CAPTURED_AT + 2):
            assert torch.equal(graphs(double, {"x": torch.ones(2)}, key)["y"], torch.full((2,), 2.0))
    assert len(calls) == MOST_GRAPHS * (CAPTURED_AT + 1) + CAPTURED_AT + 2  # the last key has none
    copied, unpickled = copy.deepcopy(graphs), pickle.loads(pickle.dumps(graphs))
    assert copied.name == unpickled.name == "doubling" and not copied._graphs and not unpickled._graphs


def test_a_capture_that_fails_gives_one_message(
    graphs: CudaGraphs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(FakeRecorder, "record", refuse)
    for i in range(2 * CAPTURED_AT):
        assert graphs(double, {"x": torch.full((), float(i))})["y"] == 2 * i
    printed = "".join(capsys.readouterr()).replace("\n", " ")
    assert printed.count("doubling runs without a CUDA graph, hence slower: operation not permitted") == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_augmentation_on_a_gpu_is_that_of_a_cpu_and_waits_for_nothing() -> None:
    settings = AugmentSettings(policy="trivialaugment", cutmix=1.0, mixup=0.2, mix_probability=0.5, erasing=0.3)
    augment = Augment(settings, (0.5,) * 3, (0.2,) * 3, 10)
    generator = torch.Generator().manual_seed(0)
    for step in range(CAPTURED_AT + 4):
        batch = {
            "pixel_values": torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=generator),
            "labels": torch.randint(0, 10, (64,), generator=generator),
            "index": torch.randperm(1000, generator=generator)[:64],
            "epoch": torch.tensor(step),
        }
        expected = augment(batch, seed=3, step=step, train=True)
        on_gpu = {name: x.cuda() for name, x in batch.items()}
        torch.cuda.set_sync_debug_mode("error" if 0 < step < CAPTURED_AT or step > CAPTURED_AT else "default")
        try:
            results = augment(on_gpu, seed=3, step=step, train=True)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for name, x in expected.items():
            assert (results[name].cpu() - x).abs().max() <= 1e-5, (step, name)
    assert len(augment._graphs._graphs) == 1
