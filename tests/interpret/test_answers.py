"""Answers that are explained: written by an encoder-decoder or about an image, or found in a context."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from image_text_models import PIXELS, TEXT, small_bridge
from peers import randomize

import zoo
from zoo.preprocessing.tokenizer_training import train

SOURCES = ["the cat found a bird .", "the cat", "a bird found the cat today ."]
ANSWERS = ["die Katze fand einen Vogel .", "die Katze", "heute"]
QUESTION, CONTEXT = "who found the bird ?", "today the cat found a bird , and the bird sang ."


@pytest.fixture(scope="module")
def translator() -> Any:
    processor = train("seq2seq", [*SOURCES, *ANSWERS], 300, max_length=64)
    model = zoo.create_model("transformer_nano", vocab_size=processor.vocab_size, max_length=64, bos_token_id=0,
                             pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, width=16, depth=2, heads=2,
                             mlp_dim=16, seed=0)  # fmt: skip
    model.preprocess = processor
    return randomize(model).eval()


@pytest.fixture(scope="module")
def reader() -> Any:
    processor = train("wordpiece", [QUESTION, CONTEXT], 90)
    model = zoo.create_model("bert_tiny", head="qa", vocab_size=processor.vocab_size, width=16, depth=2, heads=2,
                             mlp_dim=16, seed=0)  # fmt: skip
    model.preprocess = replace(processor, max_length=64)
    return randomize(model).eval()


def answer_probability(model: Any, batch: dict[str, torch.Tensor], answer: str) -> tuple[float, torch.Tensor]:
    """(geometric mean of the probabilities of an answer's tokens, the tokens that the decoder reads and writes)."""
    ids = model.preprocess.for_targets().backend.encode(answer, add_special_tokens=False).ids
    read = torch.tensor([[model.config.decoder_start_token_id, *ids]])
    with torch.no_grad():
        logs = model(**batch, decoder_input_ids=read[:, :-1])[0].log_softmax(-1)
    return float(logs.gather(1, read[0, 1:, None]).mean().exp()), read[0]


def test_an_answer_of_an_encoder_decoder(translator: Any) -> None:
    batch = dict(translator.preprocess(SOURCES[0]))
    result = zoo.faithfulness(translator, SOURCES[0], ["attention", "rollout", "attention_x_gradient"], ANSWERS[0],
                              steps=3, random_orders=1)  # fmt: skip
    expected, ids = answer_probability(translator, batch, ANSWERS[0])
    without = batch | {"attention_mask": (batch["input_ids"] == translator.preprocess.id("eos")).long()}
    nothing = answer_probability(translator, without, ANSWERS[0])[0]
    for curve in result.curves:
        assert float(curve.deletion[0, 0]) == pytest.approx(expected, rel=1e-5)
        assert float(curve.deletion[0, -1]) == pytest.approx(nothing, rel=1e-4) != pytest.approx(expected, rel=1e-3)
        assert float(curve.insertion[0, -1]) == pytest.approx(expected, rel=1e-5)
    assert result.part == "text" and result.targets == [ANSWERS[0]]
    found = zoo.attribute(translator, SOURCES[0], ANSWERS[0], "input_x_gradient")
    read = batch | {"decoder_input_ids": ids[None, :-1]}
    steps = [zoo.attribute(translator, read, (i, int(token)), "input_x_gradient") for i, token in enumerate(ids[1:])]
    torch.testing.assert_close(found["text"], sum(step["text"] for step in steps), rtol=1e-3, atol=1e-5)
    with torch.no_grad(), zoo.capture(translator, layers="decoder.*.cross", reduce=lambda w: w.mean(1)) as maps:
        translator(**read)
    cross = torch.stack(list(maps.values())).mean((0, 2))
    torch.testing.assert_close(zoo.attribute(translator, SOURCES[0], ANSWERS[0], "attention")["text"], cross)
    with pytest.raises(ValueError, match="all of its target are special tokens, padding or tokens that the output is"):
        zoo.faithfulness(translator, SOURCES[0], ["attention"], ANSWERS[0], part="target")


def test_answers_of_several_lengths_are_as_alone(translator: Any) -> None:
    for method in ("attention", "input_x_gradient"):
        together = zoo.faithfulness(translator, SOURCES, method, ANSWERS, steps=2, random_orders=1)
        scores = zoo.attribute(translator, SOURCES, ANSWERS, method)["text"]
        for row, (source, answer) in enumerate(zip(SOURCES, ANSWERS)):
            alone = zoo.faithfulness(translator, source, method, answer, steps=2, random_orders=1).curves[0]
            torch.testing.assert_close(together.curves[0].deletion[row], alone.deletion[0], rtol=1e-4, atol=1e-7)
            own = zoo.attribute(translator, source, answer, method)["text"][0]
            torch.testing.assert_close(scores[row, : len(own)], own, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="target='' has no tokens"):
        zoo.attribute(translator, SOURCES, [ANSWERS[0], "", "heute"])


@pytest.mark.parametrize("name", ["llava_nano", "idefics_nano"])
def test_an_answer_about_an_image(name: str) -> None:
    model = small_bridge(name)
    batch = dict(model.preprocess(text=f"{model.preprocess.token} {TEXT}", images=[PIXELS]))
    methods = ["input_x_gradient"] + ["attention"] * (name == "llava_nano")
    ids = model.preprocess.text.backend.encode(" red bird").ids
    longer = {key: torch.cat([x, torch.ones_like(x[:, :1])], 1) for key, x in batch.items() if x.ndim == 2}
    longer |= {"input_ids": torch.cat([batch["input_ids"], torch.tensor([ids[:1]])], 1)}
    longer |= {"pixel_values": batch["pixel_values"]}
    mean = batch["pixel_values"].mean((-2, -1), keepdim=True).expand_as(batch["pixel_values"])
    with torch.no_grad():
        whole, empty = (model.eval()(**longer | {"pixel_values": x})[0, -2:].log_softmax(-1)
                        .gather(1, torch.tensor(ids)[:, None]).mean().exp().item()
                        for x in (batch["pixel_values"], mean))  # fmt: skip
    result = zoo.faithfulness(model, batch, methods, " red bird", steps=2, random_orders=1)
    assert (result.part, result.removal, result.targets) == ("image", "mean", [" red bird"])
    for curve in result.curves:
        assert curve.deletion[0, [0, -1]].tolist() == pytest.approx([whole, empty], rel=1e-4)
    words = zoo.faithfulness(model, batch, methods, " red bird", part="text", steps=2, random_orders=1)
    assert float(words.curves[0].deletion[0, 0]) == pytest.approx(whole, rel=1e-4)


def test_an_answer_in_a_context(reader: Any) -> None:
    best = zoo.predict(reader, (QUESTION, CONTEXT), top_k=1)[0]
    result = zoo.faithfulness(reader, [(QUESTION, CONTEXT)], ["input_x_gradient", "attention"], steps=4)
    assert result.targets == [best.answer] and result.part == "text"
    for curve in result.curves:
        assert float(curve.deletion[0, 0]) == pytest.approx(best.probability, rel=1e-4)
    ids = reader.preprocess((QUESTION, CONTEXT))["input_ids"][0].tolist()
    cat = reader.preprocess.backend.encode("the cat", add_special_tokens=False).ids
    first = next(i for i in range(ids.index(reader.preprocess.id("sep")), len(ids)) if ids[i : i + len(cat)] == cat)
    by_text = zoo.attribute(reader, (QUESTION, CONTEXT), "the cat", "input_x_gradient")
    by_place = zoo.attribute(reader, (QUESTION, CONTEXT), (first, first + len(cat) - 1), "input_x_gradient")
    assert torch.equal(by_text["text"], by_place["text"]) and by_place.targets == ["the cat"]
    # without all other words: the answer and the special tokens alone
    whole = zoo.faithfulness(reader, (QUESTION, CONTEXT), "attention", "the cat", steps=1, random_orders=1).curves[0]
    marks = [reader.preprocess.id(role) for role in ("cls", "sep")]
    left = [i for i, token in enumerate(ids) if token in marks or first <= i < first + len(cat)]
    types = reader.preprocess((QUESTION, CONTEXT))["token_type_ids"][:, left]
    with torch.no_grad():
        logs = reader(input_ids=torch.tensor([ids])[:, left], token_type_ids=types)[0, [0, *range(2, len(cat) + 2)]]
    expected = logs.log_softmax(0)[1, 0] + logs.log_softmax(0)[len(cat), 1]
    assert float(whole.deletion[0, 1]) == pytest.approx(float(expected.exp()), rel=1e-4)


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ("a dog", "'a dog' is not among the words of the context of row 0"),
        ("who found", "is not among the words of the context"),  # the question has it
        ((1, 2), r"target=\(1, 2\): expected \(first, last\) token of an answer in the context of row 0, from"),
        (3, "target=3: expected an answer as it stands in the context"),
    ],
)
def test_answers_that_a_context_does_not_have(reader: Any, target: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        zoo.faithfulness(reader, (QUESTION, CONTEXT), ["attention"], target)
