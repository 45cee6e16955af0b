"""Conversations: the model sees what its template writes, answers are streamed and kept, and long ones are cut."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chat_peers import TEMPLATES, chat_folder

import zoo
from zoo.inference.generation.chat import Chat
from zoo.inference.generation.prompt import DecodingSession
from zoo.preprocessing.text import TextProcessor

NEW = 12
OPTIONS = {"max_new_tokens": NEW, "eos_token_id": None}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> zoo.Model:
    folder = tmp_path_factory.mktemp("chat")
    chat_folder(folder, TEMPLATES["chatml"])
    return zoo.load(folder)


def expected_answer(model: zoo.Model, messages: list[dict[str, str]]) -> str:
    batch = model.preprocess.apply_chat_template(messages, add_generation_prompt=True)
    out = zoo.generate(model, **batch, **OPTIONS)
    return model.preprocess.decode(out[0, batch["input_ids"].shape[1] :])


def test_answers_continue_the_whole_conversation(model: zoo.Model) -> None:
    chat, parts = Chat(model, "Be brief.", **OPTIONS), []
    messages = [{"role": "system", "content": "Be brief."}]
    for text in ("Hello", "Why?"):
        messages.append({"role": "user", "content": text})
        expected = expected_answer(model, messages)
        parts.clear()
        assert chat.reply(text, parts.append) == expected == "".join(parts) and len(parts) > 1
        messages.append({"role": "assistant", "content": expected})
        assert chat.messages == messages


def test_the_oldest_turns_are_dropped_and_the_system_prompt_stays(model: zoo.Model) -> None:
    short = zoo.Model.__new__(type(model))
    short.__dict__ = dict(model.__dict__)
    short.preprocess = replace(model.preprocess, max_length=130)
    chat = Chat(short, "Be brief.", **OPTIONS)
    for i in range(6):
        _, batch = chat.fit({"role": "user", "content": f"Is {i} a number, yes or no?"})
        assert batch["input_ids"].shape[1] + NEW <= 130
        chat.reply(f"Is {i} a number, yes or no?", lambda part: None)
    assert chat.messages[0]["role"] == "system" and chat.messages[1]["role"] == "user"
    assert chat.num_dropped > 0 and chat.num_dropped + len(chat.turns) == 12
    kept = list(chat.messages)
    with pytest.raises(ValueError, match=r"the message has \d+ tokens .* takes 129 before an answer: shorten it"):
        chat.reply("word " * 60, lambda part: None)
    assert chat.messages == kept


def test_an_answer_that_is_interrupted_is_kept_as_far_as_it_came(model: zoo.Model) -> None:
    chat, parts = Chat(model, **OPTIONS), []

    def write(part: str) -> None:
        parts.append(part)
        if len(parts) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chat.reply("Hello", write)
    whole = expected_answer(model, [{"role": "user", "content": "Hello"}])
    assert [m["role"] for m in chat.messages] == ["user", "assistant"]
    assert whole.startswith(chat.messages[1]["content"]) and len(chat.messages[1]["content"]) < len(whole)


def test_a_template_can_be_given_and_must_be_there(model: zoo.Model, tmp_path: Path) -> None:
    without = zoo.Model.__new__(type(model))
    without.__dict__ = dict(model.__dict__)
    without.preprocess = replace(model.preprocess, chat_template=None)
    with pytest.raises(ValueError, match="the model has no chat template"):
        Chat(without)
    given = Chat(without, chat_template="{{ messages[-1].content }}", max_new_tokens=NEW)
    ids = model.preprocess.backend.encode("Hello", add_special_tokens=False).ids
    assert given.fit({"role": "user", "content": "Hello"})[1]["input_ids"].tolist() == [ids]
    with pytest.raises(ValueError, match="a language model with its tokenizer, given a ViT"):
        Chat(zoo.create_model("vit_cifar_tiny", depth=1, width=16, heads=2))
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        Chat(model, max_new_tokens=0)
    with pytest.raises(ValueError, match=r"max_new_tokens=1024: .* less than the model's 1024 tokens"):
        Chat(model, max_new_tokens=1024)  # no earlier turn would ever fit
    with pytest.raises(ValueError, match="the chat template writes nothing for these messages"):
        Chat(model, chat_template="{% if 0 %}{% endif %}").reply("Hello")
    with pytest.raises(ValueError, match="num_return_sequences= does not apply to one"):
        Chat(model, num_return_sequences=2, temperature=1.0)
    assert isinstance(without.preprocess, TextProcessor) and torch.is_tensor(next(model.parameters()))


def test_what_was_read_of_the_conversation_is_not_read_again(model: zoo.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    read = DecodingSession.read

    def counted(self: DecodingSession, ids: torch.Tensor, every: bool = False) -> torch.Tensor:
        sizes.append(ids.shape[1])
        return read(self, ids, every)

    monkeypatch.setattr(DecodingSession, "read", counted)
    chat, first = Chat(model, "Be brief.", **OPTIONS), []
    for text in ("Hello, is 1 a number?", "Why?", "And 2?"):
        before, sizes[:] = chat.fit({"role": "user", "content": "?"})[1]["input_ids"][0], []
        chat.reply(text, lambda part: None)
        first.append((sizes[0], len(before)))
    assert all(new < whole / 2 for new, whole in first[1:])
