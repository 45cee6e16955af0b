"""`zoo chat` and `zoo generate` about images: files among the arguments and in later turns, and what is refused."""

import io
import sys
from pathlib import Path

import pytest
from caption_peers import noise_images, transformers_blip
from chat_peers import TEMPLATES, chat_folder
from llava_peers import llava_processor, photographs, transformers_llava
from paligemma_peers import save_processor, transformers_paligemma

import zoo
from zoo.cli.main import main
from zoo.inference.generation.chat import Chat
from zoo.preprocessing.bridge import BridgeProcessor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("llava")
    transformers_llava(path, text_options={"eos_token_id": None})
    llava_processor(path)
    for number, picture in enumerate(photographs(2)):
        picture.save(path / f"{number}.png")
    return path


def say(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))


def test_an_image_belongs_to_the_first_message_and_another_to_a_later_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = photographs(2)
    say(monkeypatch, "what is this ?", f"/image {folder / '1.png'}", "and this ?", "red ?")
    assert main(["chat", str(folder), str(folder / "0.png"), "max_new_tokens=3"]) == 0
    model = zoo.load(folder)

    def user(text: str, *images: object) -> dict[str, object]:
        return {"role": "user", "content": [*({"type": "image", "image": x} for x in images),
                                            {"type": "text", "text": text}]}  # fmt: skip

    chat, expected = [], []
    for message in (user("what is this ?", first), user("and this ?", second), user("red ?")):
        chat.append(message)
        expected.append(zoo.generate(model, chat, max_new_tokens=3).split())
        chat.append({"role": "assistant", "content": [{"type": "text", "text": " ".join(expected[-1])}]})
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == expected


def test_images_are_read_when_they_are_named_and_refused_by_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, "/image nowhere.png")
    assert main(["chat", str(folder)]) == 2
    assert "there is no image file nowhere.png" in capsys.readouterr().err
    assert main(["chat", str(folder), "nowhere.png"]) == 2
    chat_folder(tmp_path, TEMPLATES["chatml"])
    assert main(["chat", str(tmp_path), str(folder / "0.png")]) == 2
    assert "a Llama reads texts alone" in capsys.readouterr().err
    chat = Chat(zoo.load(folder), max_new_tokens=3)
    with pytest.raises(ValueError, match=r"the message has 7\d tokens .* and those of images, and the model takes 63"):
        chat.reply("red " * 60, images=photographs(2))
    assert not chat.messages


def test_models_without_a_conversation_are_asked_by_generate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, "what")
    transformers_paligemma(tmp_path / "asked")
    save_processor(tmp_path / "asked")
    photographs(1)[0].save(tmp_path / "0.png")
    assert main(["chat", str(tmp_path / "asked"), str(tmp_path / "0.png")]) == 2
    assert "zoo generate FOLDER TEXT --image FILE" in capsys.readouterr().err
    assert main(["generate", str(tmp_path / "asked"), "caption en", "--image", str(tmp_path / "0.png")]) == 0
    expected = zoo.generate(zoo.load(tmp_path / "asked"), text="caption en", images=photographs(1)[0])
    assert capsys.readouterr().out.split() == expected.split()


def test_generate_writes_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transformers_blip(tmp_path / "blip", gain=4.0)
    picture = noise_images(1)[0]
    picture.save(tmp_path / "0.png")
    words, model = ["generate", str(tmp_path / "blip"), "--image", str(tmp_path / "0.png")], zoo.load(tmp_path / "blip")
    assert main([*words, "max_new_tokens=4"]) == 0
    assert capsys.readouterr().out == zoo.generate(model, images=picture, max_new_tokens=4) + "\n"
    assert main([words[0], words[1], "a photo of", "max_new_tokens=4", *words[2:]]) == 0
    assert capsys.readouterr().out == zoo.generate(model, images=picture, text="a photo of", max_new_tokens=4) + "\n"
    assert main([*words, "--image", str(tmp_path / "0.png")]) == 2
    assert "2 images: one caption is written while it is generated" in capsys.readouterr().err
    assert main(["generate", str(tmp_path / "blip")]) == 2
    assert "the text to continue is missing" in capsys.readouterr().err


@pytest.mark.parametrize("style", ["chatml", "mistral"])
def test_a_template_of_texts_alone_gets_markers(folder: Path, style: str) -> None:
    """As of a chat model that zoo.bridge has joined to an image tower."""
    from dataclasses import replace

    made = zoo.load(folder).preprocess
    assert isinstance(made, BridgeProcessor)
    ours = replace(made, text=replace(made.text, chat_template=TEMPLATES[style]))
    parts = [{"type": "image"}, {"type": "text", "text": "what is this ?"}]
    given = ours.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
    plain = [{"role": "user", "content": "<image>\nwhat is this ?"}]
    assert given == ours.text.apply_chat_template(plain, tokenize=False) and given.count("<image>") == 1
    # and a template that reads parts gets them
    text = made.apply_chat_template([{"role": "user", "content": "what is this ?"}], tokenize=False)
    assert text == made.apply_chat_template([{"role": "user", "content": parts[1:]}], tokenize=False)
    assert "what is this ?" in text
