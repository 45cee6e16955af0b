"""Training through CUDA graphs gives the bits of training without them; graphs are faked where there is no GPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cuda_graph_fakes import FakeTrainingRecorder
from torch import Tensor, nn

import zoo
from zoo.tasks.base import seed_all
from zoo.tasks.cuda_graph import CAPTURED_AT, GraphedModel

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def vit(**more: Any) -> nn.Module:
    options = dict(num_classes=5, drop_path=0.3, dropout=0.1, attention_dropout=0.1, seed=0) | more
    return zoo.create_model("vit_cifar_tiny", **options).train()


def train(graphed: Callable[[nn.Module], Any], device: torch.device, micro_batches: int = 1,
          steps: int = CAPTURED_AT + 5) -> list[Tensor]:  # fmt: skip
    """The weights after some steps; one batch is smaller than the others, and one pass is in eval mode."""
    torch.manual_seed(0)
    model = vit().to(device)
    call = graphed(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        optimizer.zero_grad()
        for micro in range(micro_batches):
            generator = torch.Generator().manual_seed(10 * step + micro)
            size = 3 if step == steps - 3 else 4
            x = torch.randn(size, 3, 32, 32, generator=generator).to(device)
            seed_all(0, step, micro, device)
            with torch.autocast(device.type, torch.bfloat16):
                loss = call(pixel_values=x).float().logsumexp(-1).mean()
            (loss * (1 + step)).backward()
        optimizer.step()
        with torch.no_grad():
            model.eval()
            assert torch.equal(call(pixel_values=x), model(pixel_values=x))
            model.train()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_weights_are_those_of_training_without_graphs(micro_batches: int) -> None:
    recorder = FakeTrainingRecorder()
    with_graphs = train(lambda model: GraphedModel(model, recorder), CPU, micro_batches)
    calls = (CAPTURED_AT + 5 - 1) * micro_batches - CAPTURED_AT  # without the batch of another size, and the first ones
    assert recorder.replays == 2 * calls
    for a, b in zip(with_graphs, train(lambda model: model, CPU, micro_batches), strict=True):
        assert torch.equal(a, b)


def test_frozen_and_unused_parameters_have_no_gradient() -> None:
    model = vit(dropout=0.0, attention_dropout=0.0, drop_path=0.0)
    model.unused = nn.Parameter(torch.ones(2))
    model.blocks[0].requires_grad_(False)
    call, x = GraphedModel(model, FakeTrainingRecorder()), torch.randn(2, 3, 32, 32)
    for _ in range(CAPTURED_AT + 2):
        model.zero_grad()
        call(pixel_values=x).sum().backward()
    assert call.graphs is not None and model.unused.grad is None and model.head.proj.weight.grad is not None
    assert all(p.grad is None for p in model.blocks[0].parameters())


def test_a_backward_pass_after_another_forward_pass_is_an_error() -> None:
    call, x = GraphedModel(vit(), FakeTrainingRecorder()), torch.randn(2, 3, 32, 32)
    first, *_ = [call(pixel_values=x) for _ in range(CAPTURED_AT + 2)][CAPTURED_AT:]
    with pytest.raises(RuntimeError, match=r"another forward pass of the same CUDA graphs.*cuda_graph=false"):
        first.sum().backward()


def test_inputs_that_decide_on_the_host_are_not_captured() -> None:
    class Masked(nn.Module):
        def forward(self, pixel_values: Tensor, lengths: Tensor) -> Tensor:
            return pixel_values[:, : int(lengths.max())]

    call = GraphedModel(Masked(), FakeTrainingRecorder())
    for i in range(CAPTURED_AT + 3):
        assert call(pixel_values=torch.ones(2, 9), lengths=torch.tensor([1, i])).shape == (2, max(i, 1))
    assert call.graphs is None


def test_a_capture_that_fails_gives_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(function: Callable[[], Any]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    call, x = GraphedModel(vit(), lambda device: refuse), torch.randn(2, 3, 32, 32)
    for _ in range(CAPTURED_AT + 3):
        call(pixel_values=x).sum().backward()
    printed = " ".join("".join(capsys.readouterr()).split())
    assert printed.count("without CUDA graphs, hence slower: operation not permitted when stream is capturing") == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_weights_on_a_gpu_are_those_of_training_without_graphs(micro_batches: int) -> None:
    found: list[GraphedModel] = []

    def graphed(model: nn.Module) -> GraphedModel:
        found.append(GraphedModel(model))
        return found[0]

    with_graphs = train(graphed, CUDA, micro_batches)
    assert found[0].graphs is not None
    for a, b in zip(with_graphs, train(lambda model: model, CUDA, micro_batches), strict=True):
        assert torch.equal(a, b)
