"""The logit lens: the output layer reads the residual stream after each block."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.models.example_batch import example_batch

IDS = torch.tensor([[5, 6, 7, 8, 9], [6, 5, 9, 0, 0]])
KEEP = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "batch"),
    [
        ("gpt_nano", {"input_ids": IDS, "attention_mask": KEEP}),
        ("gemma_nano", {"input_ids": IDS}),
        ("bert_tiny", {"input_ids": IDS, "attention_mask": KEEP}),
        ("t5_nano", {"input_ids": IDS, "attention_mask": KEEP, "decoder_input_ids": IDS}),
        ("llava_nano", {}),
        ("vit_cifar_tiny", {"pixel_values": IMAGES}),
    ],
)
def test_it_is_that_of_a_model_without_the_later_blocks(name: str, batch: dict[str, Any]) -> None:
    options = {"depth": 2} if name == "vit_cifar_tiny" else {}
    model = zoo.create_model(name, seed=0, **options).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    batch = batch or example_batch(model)
    found = zoo.logit_lens(model, **batch)
    with torch.no_grad():
        plain = model(**batch)
    stack = getattr(model, {"t5_nano": "decoder", "llava_nano": "text"}.get(name, ""), model).blocks
    *earlier, last = found
    assert len(found) == len(stack) and torch.equal(found[last], plain)
    stack.depth = 1
    torch.testing.assert_close(found[earlier[0]], model(**batch), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[earlier[0]], plain)


def test_layers_and_top_tokens() -> None:
    model = zoo.create_model("gpt_nano", seed=0).train()
    found = zoo.logit_lens(model, layers=[0, -1], top=3, input_ids=IDS)
    assert model.training and "forward" not in vars(model.blocks)
    scores = zoo.logit_lens(model, layers=[0, -1], input_ids=IDS)
    for name, each in scores.items():
        assert torch.equal(found[name].ids[..., 0], each.argmax(-1)) and found[name].probabilities.shape == (2, 5, 3)
        torch.testing.assert_close(found[name].probabilities[..., 0], each.softmax(-1).amax(-1))


def test_a_compiled_model_and_one_with_edits() -> None:
    model = zoo.create_model("gpt_nano", seed=0).eval()
    plain = zoo.logit_lens(model, input_ids=IDS)
    compiled = torch.compile(model, backend="eager")
    compiled(input_ids=IDS)
    assert all(torch.equal(a, plain[name]) for name, a in zoo.logit_lens(compiled, input_ids=IDS).items())
    with zoo.intervene(model, {"blocks.1.mlp": zoo.ablate()}):
        edited = zoo.logit_lens(model, input_ids=IDS)
        with torch.no_grad():
            expected = model(input_ids=IDS)
    assert torch.equal(edited["blocks.0"], plain["blocks.0"]) and torch.equal(list(edited.values())[-1], expected)
    assert not torch.equal(edited["blocks.1"], plain["blocks.1"])


def test_what_has_no_lens_is_said() -> None:
    def lens(name: str, layers: object = "*", **options: object) -> dict[str, Tensor]:
        model = zoo.create_model(name, **options)
        return zoo.logit_lens(model, layers, input_ids=IDS)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="has no output layer that gives one tensor of scores"):
        lens("gpt_nano", head=None)
    with pytest.raises(ValueError, match="layers=9: no block with this number"):
        lens("gpt_nano", 9)
    with pytest.raises(ValueError, match=r"blocks of another stack.*decoder.blocks.0"):
        zoo.logit_lens(zoo.create_model("t5_nano"), "encoder.*", input_ids=IDS, decoder_input_ids=IDS)
    with pytest.raises(ValueError, match="no block of zoo"):
        zoo.logit_lens(nn.Linear(2, 2), input=torch.ones(2))
    with pytest.raises(ValueError, match="top=0: expected a positive number"):
        zoo.logit_lens(zoo.create_model("gpt_nano"), top=0, input_ids=IDS)
