"""Blocks compiled in place: the same numbers, names and interfaces, one graph for all that are alike."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import zoo
from zoo.training.compile_blocks import compile_blocks
from zoo.training.config import TrainerSettings

SMALL = dict(width=32, depth=3, heads=2, mlp_dim=48)


@pytest.fixture
def counter() -> CompileCounterWithBackend:
    torch._dynamo.reset()
    return CompileCounterWithBackend("eager")


def vit(**options: Any) -> zoo.Model:
    return zoo.create_model("vit_cifar_tiny", seed=0, **SMALL | options)


def images(rows: int = 4) -> Tensor:
    return torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(rows))


def gradients(model: zoo.Model, **batch: Tensor) -> list[Tensor]:
    model.zero_grad()
    torch.manual_seed(0)
    y = model(**batch)
    y.square().sum().backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters())]  # type: ignore[union-attr]


def assert_close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_graph_for_all_blocks(counter: Any, checkpointing: bool) -> None:
    model = vit()
    model.set_checkpointing(checkpointing)
    names, expected = list(model.state_dict()), gradients(model, pixel_values=images())
    assert compile_blocks(model, counter) == 3
    assert_close(gradients(model, pixel_values=images()), expected)
    assert counter.frame_count == 1 and list(model.state_dict()) == names
    for rows in (2, 3, 5):  # one more graph for all numbers of rows
        model(images(rows))
    assert counter.frame_count == 2


def test_blocks_that_differ_are_all_compiled(counter: Any) -> None:
    """Each drop path has its graph, also beyond the limit that torch has of itself."""
    model = vit(depth=12, drop_path=0.2).train()
    expected = gradients(model, pixel_values=images())
    compile_blocks(model, counter)
    assert_close(gradients(model, pixel_values=images()), expected)
    assert counter.frame_count == 12


def test_padded_rows_run_without_padding(counter: Any) -> None:
    """Their layout is another in each batch, so it is not compiled again and again; full rows are compiled."""
    model = zoo.create_model("bert_tiny", seed=0, vocab_size=50, max_length=32, head=None, **SMALL).eval()
    ids = torch.randint(5, 50, (3, 11), generator=torch.Generator().manual_seed(0))
    masks = [(torch.arange(11) < torch.tensor([[4], [7], [length]])).long() for length in (9, 10, 11)]
    expected = [model(ids, mask) for mask in masks]
    compile_blocks(model, counter)
    assert all(torch.equal(model(ids, mask), y) for mask, y in zip(masks, expected, strict=True))
    assert counter.frame_count == 0
    assert torch.allclose(model(ids), copy.deepcopy(model)(ids), atol=1e-6) and counter.frame_count == 1


def test_captures_and_decoding_run_as_before(counter: Any) -> None:
    model = zoo.create_model("gpt_nano", seed=0, vocab_size=50, max_length=32, **SMALL).eval()
    ids = torch.randint(50, (2, 5), generator=torch.Generator().manual_seed(0))
    tokens, logits = zoo.generate(model, ids, max_new_tokens=5), model(ids)
    compile_blocks(model, counter)
    assert torch.equal(zoo.generate(model, ids, max_new_tokens=5), tokens)
    with zoo.capture(model) as maps:
        assert torch.equal(model(ids), logits)
    assert len(maps) == 3


def test_a_copy_is_not_compiled(counter: Any) -> None:
    """The moving average is copied before, a model in a folder is without it."""
    model = vit().eval()
    compile_blocks(model, counter)
    copy.deepcopy(model)(images())
    assert counter.frame_count == 0


def test_a_model_without_blocks() -> None:
    with pytest.raises(ValueError, match=r"compile=blocks: Linear has no zoo\.nn\.Block; use compile=true"):
        compile_blocks(torch.nn.Linear(2, 2))


def test_the_option() -> None:
    assert TrainerSettings().compile is False and TrainerSettings(compile="blocks").compile == "blocks"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    model, x = vit().cuda(), images().cuda()
    expected = gradients(model, pixel_values=x)
    compile_blocks(model)
    for ours, theirs in zip(gradients(model, pixel_values=x), expected, strict=True):
        assert (ours - theirs).abs().max() <= 1e-3 * theirs.abs().max()
