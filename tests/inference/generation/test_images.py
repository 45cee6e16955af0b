"""`zoo.generate_images`: sampling, guidance, completion, re-ranking, and parallel decoding."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import zoo
from zoo.inference.generation.parallel_decoding import ParallelOptions, fill_in, masked_after, sampled
from zoo.models.base import Model
from zoo.preprocessing.tokenizer_training import train

SMALL = dict(width=32, depth=2, heads=4, mlp_dim=48, text_vocab_size=120, text_length=9, image_vocab_size=20,
             image_grid=(3, 4), text_dropout=0.1)  # fmt: skip
TEXTS = ["a red bird", "two blue fish"]


def make(name: str, **more) -> Model:
    model = zoo.create_model(f"{name}_nano", seed=0, **SMALL | more).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    model.preprocess = replace(train("wordpiece", TEXTS * 4, vocab_size=120, max_length=9), types=False)
    tokenizer = zoo.create_model("dvae_tiny", image_size=(12, 16), widths=(8, 8), depth=1, vocab_size=20, seed=0)
    return model.set_image_tokenizer(tokenizer)


@pytest.fixture(scope="module", params=["dalle", "maskgit"])
def model(request) -> Model:
    return make(request.param)


def test_a_saved_model_paints(model, tmp_path):
    made = zoo.generate_images(model, TEXTS, num_images=3, seed=0)
    assert made.tokens.shape == (2, 3, 3, 4) and made.scores.shape == (2, 3) and (made.scores < 0).all()
    assert made.pixel_values.shape == (2, 3, 3, 12, 16) and made.pixel_values.dtype == torch.uint8
    assert [len(row) for row in made.images] == [3, 3] and made.images[0][0].size == (16, 12)
    loaded = zoo.load(zoo.save(model, tmp_path))
    again = zoo.generate_images(loaded, TEXTS, num_images=3, seed=0)
    assert torch.equal(again.tokens, made.tokens) and torch.equal(again.pixel_values, made.pixel_values)
    other = zoo.generate_images(model, TEXTS, num_images=3, seed=1)
    assert not torch.equal(other.tokens, made.tokens)
    assert not torch.equal(made.tokens[:, 0], made.tokens[:, 1])
    one = zoo.generate_images(model, TEXTS[0], temperature=0, seed=0)
    ids = model.preprocess(TEXTS[:1])
    assert torch.equal(one.tokens, zoo.generate_images(model, ids, temperature=0, seed=0).tokens)


@torch.no_grad()
def test_greedy_tokens_are_the_most_probable_ones():
    model = make("dalle")
    made = zoo.generate_images(model, TEXTS, temperature=0)
    ids = made.tokens.flatten(1)
    output = model(**model.preprocess(TEXTS), image_ids=ids)
    assert torch.equal(output.image.argmax(-1), ids)
    log_probs = output.image.log_softmax(-1).gather(-1, ids[..., None]).sum((1, 2))
    assert torch.allclose(made.scores[:, 0], log_probs, rtol=1e-4)


@torch.no_grad()
def test_guidance_moves_the_scores_away_from_those_without_a_text():
    model, scale = make("dalle"), 3.0
    made = zoo.generate_images(model, TEXTS, temperature=0, guidance_scale=scale).tokens.flatten(1)
    batch = model.preprocess(TEXTS)
    empty = {"input_ids": batch["input_ids"] * 0, "attention_mask": batch["attention_mask"] * 0}
    with_text, without = (model(**each, image_ids=made).image for each in (batch, empty))
    assert torch.equal((without + scale * (with_text - without)).argmax(-1), made)
    assert not torch.equal(made, zoo.generate_images(model, TEXTS, temperature=0).tokens.flatten(1))
    masked = make("maskgit")
    guided = zoo.generate_images(masked, TEXTS, temperature=0, guidance_scale=scale, steps=1).tokens.flatten(1)
    with_text, without = masked(**batch), masked(**empty)
    assert torch.equal((without + scale * (with_text - without)).argmax(-1), guided)


def test_images_are_completed(model):
    tokens = torch.arange(12).view(1, 3, 4)
    made = zoo.generate_images(model, TEXTS, images=tokens, keep=2, num_images=2, seed=0).tokens
    assert torch.equal(made[:, :, :2], tokens[:, None, :2].expand(2, 2, 2, 4))
    pixels = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    read = model.image_tokenizer.tokenize(pixels).view(2, 3, 4)
    made = zoo.generate_images(model, TEXTS, images=pixels, keep=1, seed=0).tokens
    assert torch.equal(made[:, 0, 0], read[:, 0])


def test_maskgit_fills_in_any_part():
    model, stays = make("maskgit"), torch.zeros(3, 4, dtype=torch.bool)
    stays[:, 1:3] = True
    tokens = torch.arange(12).view(1, 3, 4)
    made = zoo.generate_images(model, TEXTS, images=tokens, keep=stays, seed=0).tokens
    assert (made[:, 0][:, stays] == tokens[:, stays]).all() and (made < 20).all()


def test_a_contrastive_model_puts_the_best_image_first():
    model = make("dalle")
    judge = zoo.contrast(
        image={"name": "vit_cifar_tiny", "width": 32, "depth": 1, "heads": 2, "image_size": (12, 16), "patch_size": 4},
        text={"name": "bert_tiny", "width": 32, "depth": 1, "heads": 2, "vocab_size": 120, "max_length": 9},
        width=16, seed=0,
    ).eval()  # fmt: skip
    processor = type(judge.preprocess)(image=judge.preprocess.image, text=model.preprocess)
    judge.preprocess = processor
    plain = zoo.generate_images(model, TEXTS, num_images=4, seed=0)
    made = zoo.generate_images(model, TEXTS, num_images=4, seed=0, rerank=judge)
    assert (made.scores.diff(dim=1) <= 0).all() and made.scores.abs().max() <= 1.0001
    for text, before, after, pictures in zip(range(2), plain.tokens, made.tokens, made.images):
        rows = sorted(before.flatten(1).tolist())
        assert sorted(after.flatten(1).tolist()) == rows
        with torch.no_grad():
            output = judge(**processor(images=pictures, text=[TEXTS[text]]))
        cosine = (output.image_features @ output.text_features.T)[:, 0]
        assert torch.allclose(cosine, made.scores[text], atol=1e-5)


# --- parallel decoding ------------------------------------------------------------------------------------------------


def test_the_schedule_is_a_cosine():
    assert [masked_after(step, 8, 64) for step in range(1, 9)] == [
        math.floor(64 * math.cos(math.pi / 2 * step / 8)) for step in range(1, 8)
    ] + [0]  # fmt: skip


def test_samples_have_their_probabilities():
    scores = torch.tensor([[[0.0, 2.0, -torch.inf, 1.0]]]).expand(1, 4000, 4)
    token, log_prob = sampled(scores, 2.0, torch.Generator().manual_seed(0))
    expected = (scores[0, 0] / 2).softmax(-1)
    assert (torch.bincount(token[0], minlength=4) / 4000 - expected).abs().max() < 0.03
    assert torch.allclose(log_prob.exp(), expected[token])
    assert (sampled(scores, 0, None)[0] == 1).all()


def test_the_surest_tokens_come_first_and_stay():
    seen: list[Tensor] = []
    sure = torch.tensor([3.0, 9.0, 1.0, 5.0, 7.0])

    def scores_of(ids: Tensor, places: Tensor) -> Tensor:
        seen.append(ids.clone())
        return torch.stack([sure, sure * 0], -1)[places]

    start = torch.tensor([[-1, -1, 1, -1, -1]])
    ids, score = fill_in(scores_of, start, 2, ParallelOptions(steps=4, temperature=0, choice_temperature=0))
    assert ids.tolist() == [[0, 0, 1, 0, 0]]
    assert [row.tolist() for (row,) in seen] == [
        [2, 2, 1, 2, 2], [2, 0, 1, 2, 2], [2, 0, 1, 2, 0], [2, 0, 1, 0, 0]]  # fmt: skip
    expected = sum(float(torch.stack([x, x * 0]).log_softmax(0)[0]) for i, x in enumerate(sure) if i != 2)
    assert abs(float(score) - expected) < 1e-5
    assert len(seen) == 4
