"""Chat templates: transformers' text and ids, what is kept, and what is refused."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from chat_peers import ANSWER, CALL, SYSTEM, TEMPLATES, TURNS, USER, WEATHER, chat_folder, save_chat_tokenizer

import zoo
from zoo.preprocessing import template_sandbox
from zoo.preprocessing.text import TextProcessor

THOUGHT = {"role": "assistant", "content": "Yes.", "reasoning": "1 comes before 2"}
PARTS = {"role": "user", "content": None, "name": "a"}
CASES = {
    "one question": ([USER], {}),
    "with a system prompt": ([SYSTEM, *TURNS], {"add_generation_prompt": True}),
    "several turns": (TURNS, {"add_generation_prompt": True}),
    "to be continued": ([USER, ANSWER], {"continue_final_message": True}),
    "tools": ([USER, CALL, *TURNS], {"tools": [WEATHER], "add_generation_prompt": True}),
    "reasoning": ([USER, THOUGHT], {}),
    "variables": ([USER], {"add_generation_prompt": True, "enable_thinking": False, "date_string": "1 Jan"}),
    "no content": ([USER, PARTS], {}),
}


def processor(template: object = None, **changes: object) -> TextProcessor:
    """The processor of a folder without a model."""
    with_template = {} if template is None else {"chat_template": template}
    return replace(PROCESSORS[0], **with_template | changes)


PROCESSORS: list[TextProcessor] = []
THEIRS: list[object] = []


@pytest.fixture(scope="module", autouse=True)
def processors(tmp_path_factory: pytest.TempPathFactory) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    chat_folder(folder)
    PROCESSORS[:], THEIRS[:] = [zoo.load(folder).preprocess], [AutoTokenizer.from_pretrained(folder)]


# --- as transformers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("style", TEMPLATES)
def test_text_and_ids_are_those_of_transformers(style: str, case: str) -> None:
    messages, options = CASES[case]
    ours, theirs = processor(TEMPLATES[style]), THEIRS[0]
    try:
        text = theirs.apply_chat_template(messages, chat_template=TEMPLATES[style], tokenize=False, **options)
    except Exception as error:  # of jinja2, or a ValueError: refused by both
        with pytest.raises(ValueError, match=r"chat|template"):
            ours.apply_chat_template(messages, **options)
        assert case in ("tools", "with a system prompt", "to be continued", "no content"), error
        return
    assert ours.apply_chat_template(messages, tokenize=False, **options) == text and len(text) > 10
    ids = theirs.apply_chat_template(messages, chat_template=TEMPLATES[style], **options)["input_ids"]
    assert ours.apply_chat_template(messages, **options)["input_ids"].tolist() == [ids]


def test_few_cases_are_refused_by_both() -> None:
    refused = 0
    for template in TEMPLATES.values():
        for messages, options in CASES.values():
            try:
                processor(template).apply_chat_template(messages, tokenize=False, **options)
            except ValueError:
                refused += 1
    assert refused <= 14, refused  # of 56


def test_several_conversations_are_a_padded_batch() -> None:
    ours = processor(TEMPLATES["chatml"])
    batch = ours.apply_chat_template([[USER], [SYSTEM, *TURNS]], add_generation_prompt=True)
    theirs = THEIRS[0].apply_chat_template(
        [[USER], [SYSTEM, *TURNS]], chat_template=TEMPLATES["chatml"], add_generation_prompt=True, padding=True,
        return_tensors="pt",
    )  # fmt: skip
    assert torch.equal(batch["input_ids"], theirs["input_ids"])
    assert torch.equal(batch["attention_mask"], theirs["attention_mask"]) and (batch["attention_mask"] == 0).any()
    same = ours.apply_chat_template([[USER], [SYSTEM, *TURNS]], add_generation_prompt=True, return_tensors="pt",
                                    return_dict=True, padding=True)  # fmt: skip
    assert torch.equal(same["input_ids"], batch["input_ids"])


def test_messages_may_be_objects_and_the_template_sees_plain_data() -> None:
    @dataclass
    class Message:
        role: str
        content: object

    template = "{{ messages[0]['role'] }} {{ messages[0].content[0] }}"
    messages = [Message("user", [torch.zeros(2), 1])]
    ours = processor(template).apply_chat_template(messages, tokenize=False)
    assert ours == THEIRS[0].apply_chat_template(messages, chat_template=template, tokenize=False) == "user <Tensor>"


# --- which template -----------------------------------------------------------------------------------------------

SEVERAL = [{"name": "default", "template": "default"}, {"name": "tool_use", "template": "tools"},
           {"name": "rag", "template": "{{ documents[0].title }}"}]  # fmt: skip


@pytest.mark.parametrize("where", ["settings", "list", "file", "file and settings", "folder"])
def test_the_template_of_a_folder_is_found_and_kept(where: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    several = where in ("list", "folder")
    chat_folder(tmp_path / "theirs", {"settings": "in the settings", "list": SEVERAL}.get(where))
    if where.startswith("file"):
        (tmp_path / "theirs/chat_template.jinja").write_text("in a file")
    if where == "file and settings":
        save_chat_tokenizer(tmp_path / "theirs", SEVERAL)
    if where == "folder":
        (tmp_path / "theirs/additional_chat_templates").mkdir()
        (tmp_path / "theirs/chat_template.jinja").write_text("default")
        for entry in SEVERAL[1:]:
            (tmp_path / f"theirs/additional_chat_templates/{entry['name']}.jinja").write_text(entry["template"])
    zoo.save(zoo.load(tmp_path / "theirs"), tmp_path / "ours")
    zoo.export(zoo.load(tmp_path / "ours"), tmp_path / "again")
    options = [{}, {"tools": [WEATHER]}, {"chat_template": "{{ eos_token }}"}]
    options += [{"chat_template": "rag", "documents": [{"title": "a"}]}] * several
    for folder in ("theirs", "ours", "again"):
        ours, theirs = zoo.load(tmp_path / folder).preprocess, AutoTokenizer.from_pretrained(tmp_path / "again")
        original = AutoTokenizer.from_pretrained(tmp_path / "theirs")
        for given in options:
            text = ours.apply_chat_template([USER], tokenize=False, **given)
            assert text == original.apply_chat_template([USER], tokenize=False, **given)
            assert text == theirs.apply_chat_template([USER], tokenize=False, **given)
    names = ["default", "rag", "tool_use"]
    assert sorted(theirs.chat_template) == names if several else theirs.chat_template.startswith("in ")


def test_a_template_that_is_set_is_kept_and_changes_no_output(tmp_path: Path) -> None:
    chat_folder(tmp_path / "theirs")
    model = zoo.load(tmp_path / "theirs")
    model.preprocess = replace(model.preprocess, chat_template=TEMPLATES["chatml"])
    zoo.save(model, tmp_path / "ours")
    assert (tmp_path / "ours/chat_template.jinja").read_text() == TEMPLATES["chatml"]
    assert zoo.load(tmp_path / "ours").preprocess == model.preprocess
    assert "chat_template" not in (tmp_path / "ours/config.json").read_text()
    (tmp_path / "ours/chat_template.jinja").unlink()
    assert zoo.verify(tmp_path / "ours").ok and zoo.load(tmp_path / "ours").preprocess.chat_template is None


def test_a_template_of_a_folder_that_cannot_be_read_is_not_replaced_by_another(tmp_path: Path) -> None:
    chat_folder(tmp_path, "in the settings")
    (tmp_path / "chat_template.jinja").write_bytes(b"caf\xe9 {{ messages }}")
    with pytest.raises(zoo.LoadError, match=r"chat_template\.jinja is not UTF-8"):
        zoo.load(tmp_path)


@pytest.mark.parametrize("name", ["../../outside", "a/b", "a\\b", "", "a\0b"])
def test_a_template_has_the_name_of_a_file_of_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not the name of a file"):
        processor({"default": "a", name: "b"})
    chat_folder(tmp_path, [{"name": name, "template": "b"}])
    with pytest.raises(zoo.LoadError, match=r"tokenizer_config\.json: .*not the name of a file"):
        zoo.load(tmp_path)


def test_a_checkpoint_of_training_keeps_the_template() -> None:
    ours = processor({"default": "a", "tool_use": "b"})
    again = TextProcessor.from_dict(ours.to_dict(), {**ours.files(), **ours.template_files()})
    assert again == ours and "chat_template" not in json.dumps(ours.to_dict())


def test_a_token_that_the_settings_set_to_null_is_none(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    chat_folder(tmp_path, "{{ bos_token }}|{{ messages[0].content }}{{ eos_token }}", bos_token=None)
    text = zoo.load(tmp_path).preprocess.apply_chat_template([ANSWER], tokenize=False)
    assert text == AutoTokenizer.from_pretrained(tmp_path).apply_chat_template([ANSWER], tokenize=False) == "|Yes.</s>"


# --- what is refused ----------------------------------------------------------------------------------------------

FOREVER = "{% macro f(n) %}{{ f(n - 1) if n }}{{ f(n - 1) if n }}{% endmacro %}{{ f(60) }}"
NESTED = "{% for a in range(9999) %}" * 5 + "{% endfor %}" * 5


@pytest.mark.parametrize("template, message", [
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", r"chat_template\.jinja: the chat template was stopped.*unsafe"),
    ("{{ messages.append(1) }}", "stopped"), ("{{ cycler.__init__.__globals__.os.system('id') }}", "stopped"),
    ("{{ namespace(__class__=1) }}", "sets the attribute '__class__'"),
    (FOREVER, "20,000 turns of loops and calls"), (NESTED, "20,000 turns"),
    ("{% for m in messages recursive %}{{ loop(messages) }}{{ loop(messages) }}{% endfor %}", "turns|Recursion"),
    ("{{ range(999999999) }}", "Range too big"), ("{{ 'a' * 10 ** 9 }}", r"the result of \* has more"),
    ("{{ 9 ** 99999999 }}", r"the result of \*\*"), ("{{ [0] * 10 ** 9 }}", "has more"),
    ("{% set a = 'a' * 10 ** 6 %}{% for i in range(11) %}{{ a }}{% endfor %}", "writes more than 10,000,000"),
    ("a\n{% if %}", r"chat_template\.jinja, line 2: .*cannot be read"), ("{% unknown %}", "line 1"),
])  # fmt: skip
def test_a_template_that_runs_code_or_for_ever_is_refused(
    template: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_STEPS", 20_000)  # a million take seconds
    with pytest.raises(ValueError, match=message) as caught:
        processor(template).apply_chat_template([USER], tokenize=False)
    assert isinstance(caught.value, zoo.LoadError) or "Recursion" in str(caught.value)


def test_attributes_of_python_are_empty_as_in_transformers() -> None:
    template = "[{{ ''.__class__ }}{{ messages.__init__ }}]"
    assert processor(template).apply_chat_template([USER], tokenize=False) == "[]"


def test_the_limits_are_above_real_conversations() -> None:
    turns = [USER, ANSWER] * 500
    text = processor(TEMPLATES["mistral"]).apply_chat_template(turns, tokenize=False)
    assert text.count("[INST]") == 500


def test_other_threads_and_later_calls_have_their_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_STEPS", 12)
    for _ in range(3):
        assert processor("{% for i in range(9) %}a{% endfor %}").apply_chat_template([USER], tokenize=False) == "a" * 9


@pytest.mark.parametrize("messages, options, message", [
    ([], {}, "list of messages is empty"), ("Hello", {}, "messages is a str: expected a list of messages"),
    ({"role": "user"}, {}, "is a dict: expected a list"), ([USER, "Hello"], {}, "message 1 is a str"),
    ([USER], {"chat_template": "tool"}, r"neither a template nor the name of one .*default, tool_use\); did you mean"),
    ([USER], {"tools": [print]}, "get_json_schema"), ([USER], {"documents": ["a"]}, "documents has a str"),
    ([USER], {"add_generation_prompt": True, "continue_final_message": True}, "set one of them"),
    ([USER], {"return_tensors": "np"}, "return_tensors='np' does not apply"),
    ([USER], {"truncation": True}, "truncation=True does not apply"),
    ([CALL], {"continue_final_message": True}, "no text to continue"),
    ([USER], {"continue_final_message": True, "chat_template": "{{ 1 }}"}, "cannot continue it"),
    ([USER], {"chat_template": "{{ raise_exception('only one') }}"}, "does not take these messages: only one"),
    ([USER], {"chat_template": "{{ messages[0].content.x.y }}"}, r"chat_template=: .* has no attribute 'x'"),
    ([USER], {"chat_template": "{{ 1 + 'a' }}"}, "fails on these messages: TypeError"),
    ([{"role": "user", "content": "a " * 1100}], {}, r"has \d+ tokens, expected at most max_length=1024: remove"),
])  # fmt: skip
def test_mistakes_are_explained(messages: object, options: dict[str, object], message: str) -> None:
    ours = processor({"default": TEMPLATES["chatml"], "tool_use": "tools {"})
    with pytest.raises(ValueError, match=message):
        ours.apply_chat_template(messages, **options)


def test_a_folder_without_a_template_says_how_to_give_one() -> None:
    with pytest.raises(ValueError, match=r"no chat template .*pass chat_template= \(.*\), or keep one: model\.pre"):
        processor().apply_chat_template([USER])
    with pytest.raises(ValueError, match="no default: pass chat_template= with one of a, b"):
        processor({"a": "{", "b": "{"}).apply_chat_template([USER])
