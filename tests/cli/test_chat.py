"""`zoo chat` and `zoo generate`: lines from a file and from a terminal, options, and what is refused."""

import builtins
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_peers import TEMPLATES, chat_folder

import zoo
from zoo.cli.main import main
from zoo.inference.generation.chat import Chat
from zoo.inference.generation.stopping import decoder_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("chat")
    chat_folder(made, TEMPLATES["chatml"])
    return made


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def answers(folder: Path, *messages: str, system: str | None = None) -> list[str]:
    chat = Chat(zoo.load(folder), system, max_new_tokens=5)
    return [chat.reply(message, lambda part: None) for message in messages]


def test_lines_are_messages(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n\nWhy?"))
    assert main(["chat", str(folder), "max_new_tokens=5", "--system", "Be brief."]) == 0
    expected = answers(folder, "Hello", "Why?", system="Be brief.")
    assert capsys.readouterr().out == "".join(f"{answer}\n" for answer in expected)


def test_piped_lines_may_begin_with_a_byte_order_mark(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffHello"))
    assert main(["chat", str(folder), "max_new_tokens=5"]) == 0
    assert capsys.readouterr().out == f"{answers(folder, 'Hello')[0]}\n"


def test_variables_of_the_template(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chat.jinja").write_text("{{ 'yes' if thinking else 'no' }} {{ style }} {{ messages[0].content }}")
    prompts: list[str] = []

    def prompt_of(chat: Chat, text: str, images: object) -> None:
        ids = chat.fit({"role": "user", "content": text})[1]["input_ids"][0].tolist()
        prompts.append(decoder_of(chat.model)(ids))

    monkeypatch.setattr(Chat, "reply", prompt_of)
    for words in ([], ["--chat-template-kwargs", "thinking=true", "--chat-template-kwargs", "style=brief"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("Hello"))
        assert main(["chat", str(folder), "--chat-template", str(tmp_path / "chat.jinja"), *words]) == 0
    assert "no" in prompts[0] and "yes" in prompts[1] and "brief" in prompts[1]
    assert main(["chat", str(folder), "--chat-template-kwargs", "thinking"]) == 2
    assert "expected key=value" in capsys.readouterr().err


def test_a_terminal_has_a_prompt_and_goes_on_after_errors_and_interrupts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: Iterator[str] = iter(["Hello", "^C", "word " * 1000, "stop", "Why?"])
    reply = Chat.reply

    def read(prompt: str) -> str:
        line = next(lines, None)
        if line is None:
            raise EOFError
        if line == "^C":
            raise KeyboardInterrupt
        return line

    def interrupted(self: Chat, text: str, images: object = ()) -> str:
        if text == "stop":
            raise KeyboardInterrupt
        return reply(self, text)

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(builtins, "input", read)
    monkeypatch.setattr(Chat, "reply", interrupted)
    assert main(["chat", str(folder), "max_new_tokens=5"]) == 0
    monkeypatch.setattr(Chat, "reply", reply)
    shown, expected = capsys.readouterr(), answers(folder, "Hello", "Why?")
    assert shown.out == f"{expected[0]}\n\n\n\n{expected[1]}\n\n"
    assert "Ctrl-C stops an answer" in shown.err and "shorten it" in shown.err


def test_a_long_conversation_says_what_the_model_no_longer_sees(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("word " * 150 + "\n" + "word " * 150))
    assert main(["chat", str(folder), "max_new_tokens=5"]) == 0
    assert "longer than the model's 1024 tokens: it no longer sees the first 2 messages" in capsys.readouterr().err


def test_a_template_of_a_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.jinja").write_text("{{ ''.__class__.__mro__ }}")
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello"))
    assert main(["chat", str(folder), "--chat-template", str(tmp_path / "evil.jinja")]) == 2
    assert main(["chat", str(folder), "--chat-template", str(tmp_path / "absent.jinja")]) == 2
    assert main(["chat", str(folder), "--chat-template", str(tmp_path)]) == 2


def test_a_model_that_cannot_generate_is_refused_before_its_template(folder: Path) -> None:
    with pytest.raises(ValueError, match="generation needs a decoder with head='lm', given a"):
        Chat(zoo.load(folder, head="classify", num_classes=2))


@pytest.mark.parametrize("words, message", [
    (["max_tokens=5"], "zoo.generate has no option 'max_tokens'; did you mean 'max_new_tokens'?"),
    (["num_return_sequences=2"], "num_return_sequences= does not apply"),
    (["num_beams=2"], "num_beams= does not apply to one continuation that is written while"),
    (["streamer=3"], "streamer= takes an object of Python"),
    (["max_new_tokens=0"], "max_new_tokens=0"),
])  # fmt: skip
def test_mistakes_are_explained(
    words: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello"))
    assert main(["chat", str(folder), *words]) == 2
    assert message in capsys.readouterr().err
