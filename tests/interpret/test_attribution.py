"""Attribution against hand computations, captum and finite differences; padding, packing, bf16, and what is refused."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_text_models import PIXELS, TEXT, small_bridge
from peers import randomize

import zoo
from tests.plot_checks import check_texts
from zoo.interpret.attention_scores import METHODS as OF_ATTENTION
from zoo.interpret.attention_scores import all_tokens_computed
from zoo.interpret.attribution import METHODS
from zoo.interpret.gradient_maps import explicit_weights
from zoo.interpret.scored_inputs import ScoredInputs, replaced_words
from zoo.models.example_batch import example_batch
from zoo.preprocessing.tokenizer_training import train

TEXTS = ["a red bird sang", "no soup today , the cook is away", "good"]
SMALL: dict[str, Any] = dict(width=16, depth=2, heads=2, mlp_dim=16, seed=0)


@pytest.fixture(scope="module")
def bert() -> Any:
    tokenizer = train("wordpiece", TEXTS, 90)
    model = zoo.create_model("bert_tiny", head="classify", num_classes=3, vocab_size=tokenizer.vocab_size, pool="cls",
                             **SMALL)  # fmt: skip
    model.preprocess = replace(tokenizer, max_length=min(tokenizer.max_length, model.config.max_length))
    model.labels = ["bad", "fine", "good"]
    return randomize(model)


@pytest.fixture(scope="module")
def vit() -> Any:
    return randomize(zoo.create_model("vit_cifar_tiny", stem="patch", class_token=True, pool="cls", **SMALL))


def images(rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(0))


# --- the numbers ------------------------------------------------------------------------------------------------------


def test_integrated_gradients_add_up_and_are_those_of_a_fine_riemann_sum(vit: Any) -> None:
    found = zoo.attribute(vit, {"pixel_values": images()}, [3, 1])
    complete = found.completeness
    assert complete is not None and complete.is_met and "completeness met" in str(complete)
    with torch.no_grad():
        ends = vit(images())[range(2), [3, 1]] - vit(0 * images())[range(2), [3, 1]]
    torch.testing.assert_close(complete.difference, ends, atol=1e-5, rtol=1e-4)
    assert float((found["image"].sum(1) - ends).abs().max()) <= 0.01 * float(found["image"].abs().sum(1).max())
    x = images()[:1]
    total = torch.zeros_like(x)
    for step in range(200):
        leaf = ((step + 0.5) / 200 * x).requires_grad_()
        total += torch.autograd.grad(vit(leaf)[0, 3], leaf)[0] / 200
    side = 32 // vit.patches.grid[0]
    patches = (total * x).sum(1).unflatten(2, (-1, side)).unflatten(1, (-1, side)).sum((2, 4)).flatten(1)
    torch.testing.assert_close(found["image"][:1], patches, atol=2e-3 * float(patches.abs().max()), rtol=0)


def test_input_x_gradient_by_finite_differences(vit: Any) -> None:
    x, step = images(1).double(), 1e-6
    model = zoo.create_model("vit_cifar_tiny", stem="patch", class_token=True, pool="cls", **SMALL).double()
    model.load_state_dict(vit.state_dict())
    found = zoo.attribute(model, {"pixel_values": x}, 2, "input_x_gradient")["image"]
    side = 32 // vit.patches.grid[0]
    moved = x.clone()
    moved[:, :, side : 2 * side, :side] *= 1 + step  # the first patch of the second row
    with torch.no_grad():
        slope = (model.eval()(moved) - model(x))[0, 2] / step
    assert float(found[0, vit.patches.grid[1]]) == pytest.approx(float(slope), rel=1e-4)


def test_attention_and_rollout_are_those_of_the_captured_maps(vit: Any) -> None:
    with torch.no_grad(), zoo.capture(vit) as maps:
        vit(images())
    mean = torch.stack([w.mean(1) for w in maps.values()]).mean(0)
    expected = {"attention": mean[:, 0, 1:], "rollout": zoo.rollout(maps)[:, 0, 1:]}
    for method, scores in expected.items():
        found = zoo.attribute(vit, {"pixel_values": images()}, 0, method, batch_size=1)["image"]
        torch.testing.assert_close(found, scores, atol=1e-6, rtol=1e-5)


def test_attention_x_gradient_by_hand(bert: Any) -> None:
    """The weights of one layer are moved: the score changes by the sum of changes times gradients."""
    batch, target = bert.preprocess(TEXTS[1]), 2
    weights: list[torch.Tensor] = []
    for block in bert.blocks:

        def forward(q: Any, k: Any, v: Any, mask: Any = None, bias: Any = None, core: Any = block.mixer.core) -> Any:
            weights.append(core.weights(q, k, mask, bias).requires_grad_())
            return weights[-1] @ v

        block.mixer.core.forward = forward
    try:
        slopes = torch.autograd.grad(bert(**batch)[0, target], weights)
    finally:
        for block in bert.blocks:
            del block.mixer.core.forward
    products = [(w * g).relu()[0].mean(0) for w, g in zip(weights, slopes)]  # N N, of each layer
    found = zoo.attribute(bert, batch, target, "attention_x_gradient")["text"][0]
    torch.testing.assert_close(found, torch.stack(products).mean(0).sum(0), atol=1e-6, rtol=1e-4)
    followed = (torch.eye(len(found)) + products[1]) @ (torch.eye(len(found)) + products[0])
    found = zoo.attribute(bert, batch, target, "gradient_rollout")["text"][0]
    torch.testing.assert_close(found, (followed - torch.eye(len(found)))[0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["IntegratedGradients", "InputXGradient"])
def test_the_numbers_of_captum(bert: Any, name: str) -> None:
    pytest.importorskip("captum", reason="captum is not installed: pip install 'attention-zoo[captum]'")
    is_path = name == "IntegratedGradients"
    options = {"n_steps": 200} if is_path else None
    theirs = zoo.attribute(bert, TEXTS[:2], "good", f"captum.{name}", options=options)
    ours = zoo.attribute(
        bert, TEXTS[:2], "good", "integrated_gradients" if is_path else "input_x_gradient", tolerance=1e-4
    )
    for row in range(2):
        scale = float(ours["text"][row].abs().max())
        torch.testing.assert_close(theirs["text"][row], ours["text"][row], atol=2e-3 * scale, rtol=0)


# --- inputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_padding_does_not_count_and_packed_texts_are_as_alone(bert: Any, method: str) -> None:
    together = zoo.attribute(bert, TEXTS, 1, method)
    packed = zoo.attribute(bert, zoo.pack(TEXTS, 40, preprocess=bert.preprocess), 1, method)
    for row, text in enumerate(TEXTS):
        alone = zoo.attribute(bert, text, 1, method)["text"][0]
        for found in (together, packed):
            assert (found["text"][row, len(alone) :] == 0).all()
            torch.testing.assert_close(found["text"][row, : len(alone)], alone, atol=1e-5, rtol=1e-3)
    left = zoo.attribute(bert, bert.preprocess(TEXTS, padding="left"), 1, method)["text"]
    torch.testing.assert_close(left[2, -len(alone) :], alone, atol=1e-5, rtol=1e-3)
    if method == "integrated_gradients":
        assert float(alone[[0, -1]].abs().max()) == 0  # special tokens are the same in the baseline


CASES: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "language model": ("gpt_nano", {}, {"text": 16}),
    "rotary, no biases": ("llama_nano", {}, {"text": 16}),
    "without attention": ("mamba_nano", {}, {"text": 16}),
    "encoder-decoder": ("bart_nano", {}, {"text": 16, "target": 16}),
    "speech to text": ("whisper_nano", {}, {"audio": 200, "target": 16}),
    "captions": ("blip_nano", {"head": "lm"}, {"image": 64, "target": 16}),
    "waveforms": ("wav2vec2_tiny", {"head": "classify", "num_classes": 3, "depth": 1}, {"audio": 24}),
    "spectrograms": ("ast_tiny", {"depth": 1}, {"audio": 105}),
    "captions, with a token added": ("coca_nano", {}, {"image": 64, "target": 16}),
    "pairs": ("contrast_tiny", {}, {"image": 64, "text": 16}),
}


@pytest.mark.parametrize("case", CASES)
def test_modalities_and_outputs(case: str) -> None:
    name, options, sizes = CASES[case]
    model = zoo.create_model(name, seed=0, **options)
    batch = {key: x[:1] for key, x in example_batch(model).items()}
    before = model.training
    for method in ("integrated_gradients", "attention", "attention_x_gradient"):
        if method != "integrated_gradients" and name == "coca_nano":
            with pytest.raises(ValueError, match="there is no decoder that attends to the encoder"):
                zoo.attribute(model, batch, method=method)
            continue
        if method != "integrated_gradients" and case == "without attention":
            with pytest.raises(ValueError, match=f"'{method}' needs attention weights, and blocks.0.mixer is a Mamba"):
                zoo.attribute(model, batch, method=method)
            continue
        found = zoo.attribute(model, batch, method=method, tolerance=0.05)
        assert {part: x.shape[1] for part, x in found.scores.items()} == sizes
        assert all(bool(x.isfinite().all()) and bool((x != 0).any()) for x in found.scores.values())
        if found.completeness is not None:
            assert found.completeness.is_met
    assert model.training == before and len(found.targets) == 1


@pytest.mark.parametrize("name", ["llava_nano", "paligemma_nano", "idefics_nano", "gemma3_vision_nano"])
def test_patches_and_words_of_a_prompt(name: str) -> None:
    model = small_bridge(name)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    marked = f"{model.preprocess.token} {TEXT}"
    batch = dict(
        model.preprocess(text=[marked, f"{model.preprocess.token} a red frog"], images=[PIXELS, PIXELS.flip(1)])
    )
    found = zoo.attribute(model, batch, [5, 7], tolerance=0.05)
    assert found.completeness.is_met and list(found.scores) == ["image", "text"]
    inside = batch["input_ids"] == model.config.image_token_id
    assert bool((found["image"] != 0).any(1).all()) and not found["text"][inside].any()
    assert bool((found["text"] != 0).any(1).all()) and found["image"].shape == (2, 16)
    alone = zoo.attribute(model, model.preprocess(text=marked, images=[PIXELS]), 5, tolerance=0.05)
    torch.testing.assert_close(alone["image"], found["image"][:1], rtol=0.02, atol=1e-3)
    prompt = dict(model.preprocess(text=marked, images=[PIXELS]))
    answered = zoo.attribute(model, prompt, " red bird", "input_x_gradient")
    length, ids = prompt["input_ids"].shape[1], model.preprocess.text.backend.encode(" red bird").ids
    longer = {key: torch.cat([x, torch.ones_like(x[:, :1])], 1) for key, x in prompt.items() if x.ndim == 2}
    longer |= {
        "input_ids": torch.cat([prompt["input_ids"], torch.tensor([ids[:1]])], 1),
        "pixel_values": prompt["pixel_values"],
    }
    if name == "gemma3_vision_nano":
        longer.pop("token_type_ids", None)
    each = [zoo.attribute(model, longer, (length - 1 + i, token), "input_x_gradient") for i, token in enumerate(ids)]
    several = zoo.attribute(model, batch, [" red bird", " red"], "input_x_gradient")  # the second row has padding
    second = {key: x[1:] if x.ndim > 2 else x[1:, batch["attention_mask"][1] > 0] for key, x in batch.items()}
    short = zoo.attribute(model, second, " red", "input_x_gradient")
    torch.testing.assert_close(several["image"], torch.cat([answered["image"], short["image"]]), rtol=1e-3, atol=1e-6)
    left = {key: x.flip(1) if key == "attention_mask" else x for key, x in batch.items()}
    with pytest.raises(ValueError, match="has 2 tokens, which follow the input: expected inputs with their padding on"):
        zoo.attribute(model, left, " red bird")
    assert len(ids) == 2 and answered.targets == [" red bird"]
    torch.testing.assert_close(answered["image"], each[0]["image"] + each[1]["image"], rtol=1e-3, atol=1e-6)
    if name in ("idefics_nano", "gemma3_vision_nano"):
        with pytest.raises(ValueError, match="does not read the patches of an image as tokens of their own"):
            zoo.attribute(model, batch, method="attention")
        return
    with zoo.capture(model, layers="text.blocks.*.mixer", reduce=lambda w: w.mean(1)) as maps, torch.no_grad():
        model(**batch)
    last = batch["attention_mask"].sum(1) - 1
    mean = torch.stack(list(maps.values())).mean(0)[[0, 1], last]
    attention = zoo.attribute(model, batch, method="attention")
    torch.testing.assert_close(attention["image"], mean[inside].view(2, 16))
    torch.testing.assert_close(attention["text"], mean.masked_fill(inside, 0))
    zoo.attribute(model, batch, method="attention_x_gradient"), zoo.attribute(model, batch, method="rollout")
    two = model.preprocess(text=f"{marked} {model.preprocess.token}", images=[PIXELS, PIXELS])
    with pytest.raises(ValueError, match="expected one in each text, of 16 tokens"):
        zoo.attribute(model, two)
    assert list(zoo.attribute(model, dict(model.preprocess(text=TEXT)), tolerance=0.05).scores) == ["text"]


def test_bf16(bert: Any) -> None:
    half = zoo.create_model("bert_tiny", head="classify", num_classes=3, vocab_size=bert.config.vocab_size, pool="cls",
                            **SMALL)  # fmt: skip
    half.load_state_dict(bert.state_dict())
    half.to(torch.bfloat16).preprocess = bert.preprocess
    for method in ("integrated_gradients", "attention_x_gradient", "attention"):
        exact = zoo.attribute(bert, TEXTS[1], 0, method)["text"][0]
        found = zoo.attribute(half, TEXTS[1], 0, method, tolerance=0.2)["text"][0]
        assert found.dtype == torch.float32
        assert float(torch.corrcoef(torch.stack([exact, found]))[0, 1]) > 0.98, method


def test_targets_of_tokens(bert: Any) -> None:
    model = zoo.create_model("bert_tiny", head="masked_lm", vocab_size=bert.config.vocab_size, **SMALL)
    model.preprocess = bert.preprocess
    text = "a red [MASK] sang"
    found = zoo.attribute(model, text, "bird" if bert.preprocess.backend.token_to_id("bird") else "a")
    place = model.preprocess(text)["input_ids"][0].tolist().index(model.preprocess.id("mask"))
    token = bert.preprocess.backend.token_to_id(found.targets[0])
    same = zoo.attribute(model, text, (place, token))
    assert torch.equal(found["text"], same["text"]) and float(found["text"].abs().sum()) > 0
    for target, match in (((99, 1), "position 99 is out of range"), ("not a token at all", "tokens: expected one")):
        with pytest.raises(ValueError, match=match):
            zoo.attribute(model, text, target)
    with pytest.raises(ValueError, match="has 0 mask tokens"):
        zoo.attribute(model, "a red bird")


def test_other_threads_see_the_model_as_it_is(bert: Any) -> None:
    batch, found = bert.preprocess(TEXTS), []
    plain = bert(**batch)
    words, core = bert.tokens.word, bert.blocks[0].mixer.core
    zeros = torch.zeros(*batch["input_ids"].shape, bert.config.width)
    with replaced_words(words, zeros), explicit_weights(core, "blocks.0", {}), all_tokens_computed(bert):
        for _ in range(2):  # explicit weights refuse a second call of their own thread
            other = threading.Thread(target=lambda: found.append(bert(**batch)))
            other.start()
            other.join()
        assert not torch.allclose(bert(**batch), plain)
    assert len(found) == 2 and all(torch.equal(one, plain) for one in found) and torch.equal(bert(**batch), plain)


def test_inference_mode_and_batches(bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, run = [], ScoredInputs.run

    def counted(self: ScoredInputs, rows: torch.Tensor, *rest: Any, **more: Any) -> Any:
        sizes.append(len(rows))
        return run(self, rows, *rest, **more)

    monkeypatch.setattr(ScoredInputs, "run", counted)
    for method in ("input_x_gradient", "attention_x_gradient"):
        expected = zoo.attribute(bert, TEXTS, None, method)
        sizes.clear()
        with torch.inference_mode():
            found = zoo.attribute(bert, TEXTS, None, method, batch_size=2)
        assert sizes[:2] == [2, 1] and max(sizes) == 2 and found.targets == expected.targets
        torch.testing.assert_close(found["text"], expected["text"], atol=1e-5, rtol=1e-4)


def test_numbers_of_other_kinds_and_scores_that_are_not_finite(bert: Any, vit: Any) -> None:
    for target in (np.int64(2), torch.tensor(2), torch.tensor([2]), "good"):
        assert zoo.attribute(bert, TEXTS[0], target, "input_x_gradient").targets == ["good"]
    with pytest.warns(UserWarning, match="integrated gradients of 1 of 1 rows miss"):
        found = zoo.attribute(vit, {"pixel_values": images(1) * torch.nan}, 0)
    assert found.completeness is not None and not found.completeness.is_met


# --- results and refusals ---------------------------------------------------------------------------------------------


def test_text_and_plots_of_a_result(bert: Any, vit: Any, tmp_path: Path) -> None:
    found = zoo.attribute(bert, TEXTS[:2], "fine")
    best, score = found.top(1, 1)[0]
    assert best in str(found).splitlines()[2] and score == float(found["text"][1].max()) and "fine" in str(found)
    said = check_texts(found.plot(tmp_path / "text.png"))
    assert best in said and (tmp_path / "text.png").stat().st_size > 1000
    of_image = zoo.attribute(vit, {"pixel_values": images(1)}, 0, "rollout")
    check_texts(of_image.plot())
    assert of_image.top(count=1)[0][0].startswith("(") and of_image.part().grid == vit.patches.grid


REFUSED: list[tuple[dict[str, Any], str]] = [
    (dict(target=3), "target=3 is out of range: expected a class from 0 to 2"),
    (dict(target="great"), "'great' is not a class of the model: its names are 'bad', 'fine', 'good'"),
    (dict(target=[0, 1]), "2 targets for 1 rows"),
    (dict(target=(0, 1)), "one output for each input"),
    (dict(method="attention_rollout"), "method is 'attention_rollout', expected one of.*rollout"),
    (dict(baseline="blur"), "baseline of text is 'blur'"),
    (dict(tolerance=0), "tolerance=0"),
    (dict(batch_size=0), "batch_size=0"),
    (dict(options={"n": 1}), "are for methods of captum"),
    (dict(inputs=""), "text 0 is empty"),
]


@pytest.mark.parametrize(("options", "match"), REFUSED)
def test_what_it_refuses(bert: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        zoo.attribute(bert, **{"inputs": TEXTS[0]} | options)


def test_models_that_it_refuses(bert: Any, vit: Any) -> None:
    with pytest.raises(ValueError, match=r"made by zoo.optimize and has no gradients: give the model that"):
        zoo.attribute(zoo.optimize(vit), {"pixel_values": images(1)})
    with pytest.raises(ValueError, match="head=None: expected scores of classes or tokens"):
        zoo.attribute(zoo.create_model("bert_tiny", head=None, **SMALL), {"input_ids": torch.ones(1, 3).long()})
    with pytest.raises(ValueError, match="is the similarity of two inputs, given text"):
        zoo.attribute(zoo.create_model("contrast_tiny"), {"input_ids": torch.ones(1, 3).long()})
    pair = {"pixel_values": images(1), "input_ids": torch.ones(2, 3).long()}
    with pytest.raises(ValueError, match="1 of pixel_values, 2 of input_ids: expected as many rows"):
        zoo.attribute(zoo.create_model("contrast_tiny"), pair)
    with pytest.raises(ValueError, match="the batch has 'labels': expected inputs of Bert, input_ids, "):
        zoo.attribute(bert, {**bert.preprocess(TEXTS), "labels": torch.zeros(3).long()})
    with pytest.raises(ValueError, match="Bart with head='classify' reads a text with both sides"):
        zoo.attribute(
            zoo.create_model("bart_nano", head="classify", num_classes=2), {"input_ids": torch.ones(1, 3).long()}
        )
    with pytest.raises(ValueError, match="no preprocessing"):
        zoo.attribute(zoo.create_model("bert_tiny", head="classify", **SMALL), "a text")
    assert set(OF_ATTENTION) < set(METHODS)
    constant = zoo.create_model("vit_cifar_tiny", **SMALL)
    constant.forward = torch.no_grad()(constant.forward)
    with pytest.raises(ValueError, match="the output of ViT has no gradient with respect to its input"):
        zoo.attribute(constant, {"pixel_values": images(1)}, method="input_x_gradient")


@pytest.mark.parametrize(("name", "key"), [("bart_nano", "input_ids"), ("blip_nano", "pixel_values")])
def test_the_first_token_that_is_written(name: str, key: str) -> None:
    """Without the tokens of the decoder, its start token is read, and the most probable next one explained."""
    model = zoo.create_model(name, seed=0, **({"head": "lm"} if name == "blip_nano" else {})).eval()
    batch = {key: example_batch(model)[key][:1]}
    found = zoo.attribute(model, batch, method="input_x_gradient")
    start = torch.tensor([[model.config.decoder_start_token_id]])
    with torch.no_grad():
        best = model(**batch, **{f"{model.decoder_prefix}input_ids": start})[0, 0].argmax()
    assert found.targets == [str(int(best))] and found["target"].shape == (1, 1)
