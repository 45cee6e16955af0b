"""Blocks and stacks compiled in place: the same numbers, names and interfaces, one graph for all that are alike."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import zoo
from zoo.tasks.language_modeling import CausalLMTask, output_layer
from zoo.training import compile_blocks as module
from zoo.training.compile_blocks import compile_blocks, compile_model, compile_stacks
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


def test_a_stack_is_one_graph(counter: Any) -> None:
    """Also where each block has another drop path, and for another number of rows."""
    model = vit(drop_path=0.2).train()
    names, expected = list(model.state_dict()), gradients(model, pixel_values=images())
    assert compile_stacks(model, counter) == 1
    for _ in range(2):
        assert_close(gradients(model, pixel_values=images()), expected)
    assert counter.frame_count == 1 and list(model.state_dict()) == names
    for rows in (2, 3, 5):
        model(images(rows))
    assert counter.frame_count == 2


@pytest.mark.parametrize(("name", "options"), [
    ("gpt_nano", {}), ("llama_nano", {}), ("gpt_nano", {"attention": "local"}),
    ("modernbert_tiny", {"head": "masked_lm"}),
])  # fmt: skip
def test_a_stack_of_text_is_compiled_once(counter: Any, name: str, options: dict[str, Any]) -> None:
    """Masks and tables of positions are made in each forward; padding, maps, captures and decoding run as before."""
    model = zoo.create_model(name, seed=0, vocab_size=50, max_length=32, **SMALL | options).eval()
    ids = torch.randint(5, 50, (3, 11), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(11) < torch.tensor([[4], [7], [11]])).long()
    expected, padded = gradients(model, input_ids=ids), model(ids, mask)
    compile_stacks(model, counter)
    for _ in range(3):
        assert_close(gradients(model, input_ids=ids), expected)
    assert counter.frame_count == 1
    assert torch.equal(model(ids, mask), padded)
    with zoo.capture(model) as maps:
        model(ids)
    assert len(maps) == 3 and counter.frame_count == 1
    if model.config.head == "lm":
        zoo.generate(model, ids, max_new_tokens=3)
        assert counter.frame_count == 1


def test_the_loss_of_a_compiled_stack_is_computed_from_hidden_states(counter: Any) -> None:
    model = zoo.create_model("gpt_nano", seed=0, vocab_size=50, max_length=32, **SMALL)
    task, ids = CausalLMTask(model), torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(0))
    expected = task.loss_of({"input_ids": ids}, 0, 0)
    compile_stacks(model, counter)
    assert output_layer(model) is not None
    assert torch.allclose(task.loss_of({"input_ids": ids}, 0, 0), expected, atol=1e-6) and counter.frame_count == 1


def test_a_model_without_a_stack() -> None:
    with pytest.raises(ValueError, match=r"compile=stack: Linear has no zoo\.nn\.Stack; use compile=true"):
        compile_stacks(torch.nn.Linear(2, 2))
    model = vit()
    model.set_checkpointing(True)
    with pytest.raises(ValueError, match="compile=stack does not work with gradient_checkpointing=true"):
        compile_stacks(model)


def test_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrainerSettings().compile is False and TrainerSettings(compile="blocks").compile == "blocks"
    for how in (False, True, "blocks", "stack"):
        model = vit()
        compile_model(model, how, "cpu")
        found = [part for part in (model, model.blocks, model.blocks[0]) if part._compiled_call_impl is not None]
        assert found == {False: [], True: [model], "blocks": [model.blocks[0]], "stack": [model.blocks]}[how]
    monkeypatch.setattr(module, "TRITON", False)
    compile_model(vit(), "blocks", "cpu")
    compile_model(vit(), False, "cuda")
    with pytest.raises(
        ValueError, match="compile=stack needs triton on a GPU, which is not installed: pip install triton"
    ):
        compile_model(vit(), "stack", "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    model, x = vit().cuda(), images().cuda()
    expected = gradients(model, pixel_values=x)
    compile_blocks(model)
    largest = max(theirs.abs().max() for theirs in expected)
    for ours, theirs in zip(gradients(model, pixel_values=x), expected, strict=True):  # that of a bias of keys is 0
        assert (ours - theirs).abs().max() <= 1e-3 * theirs.abs().max() + 1e-5 * largest
