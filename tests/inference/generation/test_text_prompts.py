"""Texts and conversations as prompts of zoo.generate."""

from typing import Any

import pytest
import torch
from chat_peers import TEMPLATES, chat_folder

import zoo

OPTIONS: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": None}
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> zoo.Model:
    folder = tmp_path_factory.mktemp("chat")
    chat_folder(folder, TEMPLATES["chatml"])
    return zoo.load(folder)


def test_a_text_is_continued_to_a_text(model: zoo.Model) -> None:
    ids = torch.tensor([model.preprocess.encode("Is it so, Ünï")])
    out = zoo.generate(model, ids, **OPTIONS)
    text = zoo.generate(model, "Is it so, Ünï", **OPTIONS)
    assert text == model.preprocess.decode(out[0]) and text.startswith("Is it so, Ünï") and len(text) > 13
    parts: list[str] = []
    from zoo.inference.generation.streaming import stream_text

    assert stream_text(model, "Is it so, Ünï", write=parts.append, **OPTIONS) == text
    assert "".join(parts) == text
    parts.clear()
    with pytest.raises(ValueError):
        stream_text(model, "Is it so", write=parts.append, temperature=-1.0)
    assert parts == []  # the prompt is not written before an error


def test_texts_are_continued_as_each_alone(model: zoo.Model) -> None:
    texts = ["Is it so", "yes", "user assistant, it is"]
    alone = [zoo.generate(model, text, **OPTIONS) for text in texts]
    assert zoo.generate(model, texts, **OPTIONS) == alone and zoo.generate(model, texts[:1], **OPTIONS) == alone[:1]
    given = OPTIONS | {"num_beams": 2, "num_return_sequences": 2}
    found = zoo.generate(model, texts, **given, output_scores=True)
    assert len(found.texts) == 6 and found.sequences.shape[0] == 6
    assert found.texts == zoo.generate(model, texts, **given)
    assert [text[: len(texts[i // 2])] for i, text in enumerate(found.texts)] == [texts[i // 2] for i in range(6)]


def test_a_conversation_is_continued_by_an_answer(model: zoo.Model) -> None:
    batch = model.preprocess.apply_chat_template(HELLO, add_generation_prompt=True)
    out = zoo.generate(model, **batch, **OPTIONS)
    expected = model.preprocess.decode(out[0, batch["input_ids"].shape[1] :])
    assert zoo.generate(model, HELLO, **OPTIONS) == expected != ""
    assert zoo.generate(model, [HELLO, HELLO], **OPTIONS) == [expected] * 2


def test_texts_end_at_the_end(model: zoo.Model) -> None:
    free = zoo.generate(model, "Is it so", **OPTIONS)
    ids = zoo.generate(model, torch.tensor([model.preprocess.encode("Is it so")]), **OPTIONS)[0].tolist()
    end = ids[-3]  # an ordinary token: it ends the row, and is not part of the text
    text, other = zoo.generate(model, ["Is it so", "yes, it is"], max_new_tokens=6, eos_token_id=end)
    assert free.startswith(text) and text == zoo.generate(model, "Is it so", max_new_tokens=6, eos_token_id=end)
    padded = zoo.generate(model, ["Is it so", "yes, it is"], max_new_tokens=6, eos_token_id=end, pad_token_id=40)
    assert padded == [text, other]


@pytest.mark.parametrize("prompts, options, message", [
    ("", {}, "empty"), (["a", ""], {}, "empty"), ([], {}, "expected a tensor .* a text, a list of texts"),
    (["a", HELLO], {}, "given a list"), ("a", {"attention_mask": torch.ones(1, 1)}, "omit it for texts"),
    (HELLO, {"tokenizer": "transformers"}, "needs the chat template of model.preprocess"), (7, {}, "given a int"),
])  # fmt: skip
def test_mistakes_are_explained(model: zoo.Model, prompts: Any, options: dict[str, Any], message: str) -> None:
    if options.get("tokenizer"):
        options = {"tokenizer": model.preprocess.backend}
    with pytest.raises(ValueError, match=message):
        zoo.generate(model, prompts, **OPTIONS, **options)


def test_a_tokenizer_can_be_passed(model: zoo.Model) -> None:
    bare = zoo.create_model("llama_nano", vocab_size=400, seed=0).eval()
    with pytest.raises(ValueError, match="the model has no tokenizer: pass tokenizer="):
        zoo.generate(bare, "yes", **OPTIONS)
    assert zoo.generate(bare, "yes", tokenizer=model.preprocess.backend, **OPTIONS).startswith("yes")
