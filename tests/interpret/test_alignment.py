"""Alignments of words: cross-attention of tokens merged into words of both texts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import zoo
from zoo.interpret.alignment import Alignment, align_words, plot_alignment, words_of
from zoo.models.base import Model
from zoo.preprocessing.tokenizer_training import train

SOURCE, TARGET = "the cat found an unusual umbrella.", "die Katze fand einen Regenschirm."


@pytest.fixture(scope="module")
def model() -> Model:
    tokens = train("seq2seq", [SOURCE, TARGET, "the cat", "die Katze"], 280, max_length=64)
    fields = dict(pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=0, max_length=64)
    made = zoo.create_model(
        "transformer_nano", vocab_size=tokens.vocab_size, width=32, depth=2, heads=2, seed=0, **fields
    )
    made.preprocess = tokens
    return made.eval()


def test_truncated_texts_are_aligned_by_the_words_that_the_model_reads(model: Model) -> None:
    tokens = model.preprocess
    model.preprocess = replace(tokens, max_length=8, truncate="cut")
    try:
        found = align_words(model, "the cat " * 20, "die Katze " * 20)
    finally:
        model.preprocess = tokens
    assert found.source[:2] == ["the", "cat"] and 2 <= len(found.source) < 8
    assert found.weights.shape == (len(found.target), len(found.source))


def test_tokens_are_merged_into_words(model: Model) -> None:
    found = align_words(model, SOURCE, TARGET)
    assert found.source == ["the", "cat", "found", "an", "unusual", "umbrella", "."]
    assert found.target == ["die", "Katze", "fand", "einen", "Regenschirm", "."]
    assert found.weights.shape == (6, 7)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(6))
    # by hand: maps of tokens, a sum over the tokens of a source word, a mean over those of a target word
    tokens = model.preprocess
    labels = tokens(TARGET)["input_ids"]
    with torch.no_grad(), zoo.capture(model, layers="decoder.*.cross") as maps:
        model(**tokens(SOURCE), decoder_input_ids=torch.cat([torch.zeros(1, 1, dtype=torch.long), labels[:, :-1]], 1))
    weights = torch.stack(list(maps.values())).mean((0, 2))[0]
    of_source, of_target = (words_of(text, tokens.backend.encode(text)) for text in (SOURCE, TARGET))
    assert len(of_source[4][1]) > 1 and len(of_target[4][1]) > 1  # words of several tokens
    row = weights[of_target[4][1]][:, :-1].mean(0)  # without </s>
    expected = torch.stack([row[columns].sum() for _, columns in of_source])
    torch.testing.assert_close(found.weights[4], expected / expected.sum())


def test_one_layer_is_chosen(model: Model) -> None:
    one = align_words(model, SOURCE, TARGET, layers="decoder.blocks.0.cross")
    other = align_words(model, SOURCE, TARGET, layers="decoder.blocks.1.cross")
    both = align_words(model, SOURCE, TARGET)
    assert not torch.allclose(one.weights, other.weights)
    assert not torch.allclose(one.weights, both.weights)


def test_they_are_plotted(model: Model, tmp_path: Path) -> None:
    found = align_words(model, SOURCE, TARGET)
    long = Alignment([f"word{i}" for i in range(30)], ["x" * 60, "y"], torch.rand(2, 30).softmax(1))
    figure = plot_alignment([found, long], tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size[0] > 800
    first, second = figure.axes[:2]
    assert [label.get_text() for label in first.get_xticklabels()] == found.source
    assert [label.get_text() for label in first.get_yticklabels()] == found.target
    assert second.get_yticklabels()[0].get_text().endswith("…")
    with pytest.raises(ValueError, match="no alignments given"):
        plot_alignment([])
