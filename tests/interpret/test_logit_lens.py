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


def randomized(name: str, **options: object) -> Any:
    model = zoo.create_model(name, seed=0, **options).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model


@pytest.mark.parametrize(
    ("name", "batch"),
    [
        ("gpt_nano", {"input_ids": IDS, "attention_mask": KEEP}),
        ("gemma_nano", {"input_ids": IDS}),
        ("bert_tiny", {"input_ids": IDS, "attention_mask": KEEP}),
        ("t5_nano", {"input_ids": IDS, "attention_mask": KEEP, "decoder_input_ids": IDS}),
        ("llava_nano", {}),
        ("vit_cifar_tiny", {"pixel_values": IMAGES}),
        ("maskgit_nano", {}),
    ],
)
def test_it_is_that_of_a_model_without_the_later_blocks(name: str, batch: dict[str, Any]) -> None:
    options = {"depth": 2} if name in ("vit_cifar_tiny", "maskgit_nano") else {}
    model = randomized(name, **options)
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


@pytest.mark.parametrize("shared", [False, True])
def test_both_vocabularies_of_dalle(shared: bool) -> None:
    model = randomized("dalle_nano", depth=2, shared_vocabulary=shared)
    batch = example_batch(model)
    found, best = zoo.logit_lens(model, **batch), zoo.logit_lens(model, top=2, **batch)
    with torch.no_grad():
        plain = model(**batch)
        model.blocks.depth = 1
        shorter = model(**batch)
    for name, expected in (("blocks.0", shorter), ("blocks.1", plain)):
        for part in ("text", "image"):
            torch.testing.assert_close(found[name][part], getattr(expected, part), rtol=1e-4, atol=1e-5)
            assert torch.equal(best[name][part].ids[..., 0], found[name][part].argmax(-1))


def test_similarities_after_the_blocks_of_both_towers() -> None:
    text = {"name": "bert_tiny", "depth": 2, "width": 32, "heads": 2, "vocab_size": 100, "mlp_dim": 16}
    image = {"name": "vit_cifar_tiny", "depth": 2, "width": 32, "heads": 2, "mlp_dim": 16}
    model = zoo.contrast(image=image, text=text, width=24, seed=0).eval()
    three = [0, 1, 0]
    batch = {"pixel_values": IMAGES, "input_ids": IDS[three], "attention_mask": KEEP[three]}
    found = zoo.logit_lens(model, **batch)
    assert list(found) == [f"{tower}.blocks.{i}" for tower in ("image", "text") for i in range(2)]
    with torch.no_grad():
        plain = model(**batch)
        for tower, other in (("image", "text"), ("text", "image")):
            torch.testing.assert_close(found[f"{tower}.blocks.1"], plain.logits(tower, other))
            stack = model.tower(tower).blocks
            stack.depth = 1
            torch.testing.assert_close(found[f"{tower}.blocks.0"], model(**batch).logits(tower, other))
            stack.depth = 2
    assert found["image.blocks.0"].shape == (2, 3) and not torch.allclose(*list(found.values())[:2])
    assert list(zoo.logit_lens(model, "text.*", top=1, **batch)) == ["text.blocks.0", "text.blocks.1"]
    with pytest.raises(ValueError, match="the lens of Contrastive is the similarity of two inputs, given image"):
        zoo.logit_lens(model, pixel_values=IMAGES)


def test_captions_and_similarities_of_coca() -> None:
    model = randomized("coca_nano")
    batch = {"pixel_values": IMAGES, "input_ids": IDS}
    found = zoo.logit_lens(model, **batch)
    with torch.no_grad():
        plain = model(**batch)
        for path, read in (
            ("encoder", lambda y: y.logits("image", "text")), ("text", lambda y: y.logits("text", "image")),
            ("decoder", lambda y: y.caption_logits),
        ):  # fmt: skip
            assert torch.equal(found[f"{path}.blocks.1"], read(plain))
            stack = model.get_submodule(path).blocks
            stack.depth = 1
            torch.testing.assert_close(found[f"{path}.blocks.0"], read(model(**batch)), rtol=1e-4, atol=1e-5)
            stack.depth = 2
    assert len(found) == 6


def test_what_has_no_lens_is_said() -> None:
    def lens(name: str, layers: object = "*", **options: object) -> dict[str, Tensor]:
        model = zoo.create_model(name, **options)
        return zoo.logit_lens(model, layers, input_ids=IDS)  # type: ignore[arg-type]

    for name in ("gpt_nano", "dalle_nano"):
        with pytest.raises(ValueError, match="has no output layer that gives scores of tokens or classes"):
            lens(name, head=None, depth=1)
    with pytest.raises(ValueError, match="Bert with head='pool' gives an embedding, which has no scores"):
        lens("bert_tiny", head="pool")
    with pytest.raises(ValueError, match="layers=9: no block with this number"):
        lens("gpt_nano", 9)
    with pytest.raises(ValueError, match=r"blocks of another stack.*decoder.blocks.0"):
        zoo.logit_lens(zoo.create_model("t5_nano"), "encoder.*", input_ids=IDS, decoder_input_ids=IDS)
    with pytest.raises(ValueError, match="no block of zoo"):
        zoo.logit_lens(nn.Linear(2, 2), input=torch.ones(2))
    with pytest.raises(ValueError, match="top=0: expected a positive number"):
        zoo.logit_lens(zoo.create_model("gpt_nano"), top=0, input_ids=IDS)
