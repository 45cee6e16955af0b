"""Chat templates: the Jinja template of a model's folder writes a conversation as text, as in the model's training.

A template comes with downloaded files, so it is not trusted: jinja2's sandbox keeps it from Python, it sees plain data
only, and its loops, calls, products and output are limited. The filters, functions and tags are those of transformers'
`apply_chat_template`, so the text is the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from zoo.preprocessing.template_sandbox import Stopped, run_template
from zoo.utils.errors import LoadError, did_you_mean

FILE = "chat_template.jinja"
FOLDER = "additional_chat_templates"  # of {name}.jinja
CONTINUE = "CONTINUE_FINAL_MESSAGE_TAG "  # marks where the text of the last message ends, as in transformers
REASONING = ("reasoning_content", "thinking", "reasoning")  # names of one field of a message; templates read the first
# Options of transformers' apply_chat_template that are not variables of the template, and the value that holds here.
OTHERS = {
    "return_tensors": "pt", "return_dict": True, "padding": True, "truncation": False, "max_length": None,
    "return_assistant_tokens_mask": False, "sanitize_control_tokens": False, "tokenizer_kwargs": None,
}  # fmt: skip
HOW_TO_GIVE = (
    "pass chat_template= (zoo chat: --chat-template FILE), or keep one: model.preprocess = "
    "dataclasses.replace(model.preprocess, chat_template=TEXT)"
)


def file_of(name: str) -> str:
    """The file of a template in a folder, by its name."""
    return FILE if name == "default" else f"{FOLDER}/{name}.jinja"


def check_names(names: Iterable[str]) -> None:
    """Raises ValueError for a name of a template whose file would not be in the folder of templates."""
    if bad := [name for name in names if not name or set(name) & set("/\\\0")]:
        raise ValueError(f"chat_template has the name {bad[0]!r}, which is not the name of a file")


def templates_of(chat_template: str | Mapping[str, str] | None) -> dict[str, str]:
    """{name: template} of a text, which is the default, or of several by name."""
    return {"default": chat_template} if isinstance(chat_template, str) else dict(chat_template or {})


def templates_in(files: Mapping[str, str]) -> str | dict[str, str] | None:
    """The templates among the files of a folder: a text if there is only the default, {name: text}, or None."""
    found = {"default": files[FILE]} if FILE in files else {}
    for file, text in files.items():
        if file.startswith(f"{FOLDER}/"):
            found[file.removeprefix(f"{FOLDER}/").removesuffix(".jinja")] = text
    return found.get("default") if found.keys() <= {"default"} else found


def template_files(chat_template: str | Mapping[str, str] | None) -> dict[str, str]:
    """The inverse of `templates_in`: {file: contents}."""
    return {file_of(name): text for name, text in templates_of(chat_template).items()}


def template_variables(options: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a template among the options of a call. Raises ValueError for what only transformers takes."""
    for name, value in options.items():
        if name in OTHERS and value != OTHERS[name]:
            raise ValueError(f"{name}={value!r} does not apply here: the result is a batch of tensors, padded if there "
                             "are several conversations, or with tokenize=False text")  # fmt: skip
    return {name: value for name, value in options.items() if name not in OTHERS}


def choose(templates: Mapping[str, str], given: str | None, tools: Any) -> tuple[str, str]:
    """(the template, what to call it in errors): the given name or text, else the one for tools, else the default."""
    if given is not None and given not in templates:
        if "{" not in given and len(given.split()) == 1:  # the name of a template: a template without {{ }} is constant
            names = ", ".join(sorted(templates)) or "none"
            raise ValueError(
                f"chat_template={given!r} is neither a template nor the name of one (the model has: {names})"
                f"{did_you_mean(given, templates)}"
            )
        return given, "chat_template="
    if given is None and not templates:
        raise ValueError(f"the model has no chat template (no {FILE} in its folder): {HOW_TO_GIVE}")
    name = given or ("tool_use" if tools is not None and "tool_use" in templates else "default")
    if name not in templates:
        raise ValueError(
            f"the model has several chat templates and no default: pass chat_template= with one of "
            f"{', '.join(sorted(templates))}"
        )
    return templates[name], file_of(name)


def is_list_of_conversations(value: Any) -> bool:
    """Whether a value is a list of lists of messages, not one list of them."""
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], list | tuple)


def render_conversations(
    conversations: Sequence[Any],
    templates: Mapping[str, str],
    chat_template: str | None,
    variables: Mapping[str, Any],
    *,
    tools: Sequence[Any] | None,
    documents: Sequence[Any] | None,
    add_generation_prompt: bool,
    continue_final_message: bool,
) -> list[str]:
    """The text of each conversation. See `TextProcessor.apply_chat_template`."""
    if add_generation_prompt and continue_final_message:
        raise ValueError("add_generation_prompt=True begins a new message and continue_final_message=True continues "
                         "the last one: set one of them")  # fmt: skip
    for name, values in (("tools", tools), ("documents", documents)):
        if odd := next((value for value in values or () if not isinstance(value, Mapping)), None):
            hint = ": transformers.utils.get_json_schema makes one of a function" if name == "tools" else ""
            raise ValueError(f"{name} has a {type(odd).__name__}, expected dicts (of tools, JSON schemas){hint}")
    template, file = choose(templates, chat_template, tools)
    given = plain(dict(tools=tools, documents=documents, add_generation_prompt=add_generation_prompt, **variables))
    return [render(template, file, chat, given, continue_final_message) for chat in conversations]


def render(template: str, file: str, messages: Any, variables: Mapping[str, Any], continues: bool) -> str:
    """The text of one conversation. file: the name of the template in errors."""
    chat = [with_reasoning(message) for message in checked_messages(messages)]
    ending = mark_ending(chat) if continues else None
    text = _rendered(template, file, {"messages": chat, **variables})
    if ending is None:
        return text
    end = text.rfind(CONTINUE.strip())
    if end < 0 or ending.strip() not in text:
        raise ValueError(f"{file} does not write the last message as it is, so the model cannot continue it: omit "
                         "continue_final_message=True")  # fmt: skip
    return text[:end] if text[end:].startswith(CONTINUE) else text[:end].rstrip()


def checked_messages(messages: Any) -> list[dict[str, Any]]:
    """The messages of one conversation as plain data, without keys whose value is None."""
    expected = "expected a list of messages such as {'role': 'user', 'content': 'Hello'}"
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise ValueError(f"messages is a {type(messages).__name__}: {expected}")
    if not messages:
        raise ValueError(f"the list of messages is empty: {expected}")
    found = [plain(message) for message in messages]
    for index, message in enumerate(found):
        if not isinstance(message, dict):
            raise ValueError(f"message {index} is a {type(messages[index]).__name__}: {expected}")
    return [{key: value for key, value in message.items() if value is not None} for message in found]


def with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose reasoning stands under the names that templates read."""
    reasoning = next((message[name] for name in REASONING if message.get(name) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def mark_ending(chat: list[dict[str, Any]]) -> str:
    """Mark the end of the last message; returns its text."""
    content = chat[-1].get("content")
    parts = [part for part in content if "text" in part] if isinstance(content, list) else []
    if isinstance(content, str):
        chat[-1]["content"] = content + CONTINUE
        return content
    if not parts:
        raise ValueError("continue_final_message=True: the last message has no text to continue")
    text: str = parts[-1]["text"]
    parts[-1]["text"] = text + CONTINUE
    return text


def plain(value: Any) -> Any:
    """A value as JSON types; anything else is replaced by its type's name, so that a template cannot call it."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind in (str, int, float):  # subclasses may have methods of their own
        if isinstance(value, kind):
            return getattr(kind, f"__{kind.__name__}__")(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else [*map(plain, value)]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if callable(getattr(value, "model_dump", None)):  # pydantic models, as clients of chat services return
        return plain(value.model_dump())
    if callable(getattr(value, "item", None)) and getattr(value, "shape", None) == ():  # scalars of numpy and torch
        return plain(value.item())
    return f"<{type(value).__name__}>"


def _rendered(template: str, file: str, variables: Mapping[str, Any]) -> str:
    """The text of a template, with every error named."""
    from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError

    try:
        return run_template(template, variables)
    except TemplateSyntaxError as error:
        raise LoadError(
            f"{file}, line {error.lineno}: {error.message}: this chat template cannot be read; correct it, or pass "
            f"chat_template= with another one"
        ) from None
    except (SecurityError, Stopped, OverflowError) as error:  # OverflowError: a range of more than 100,000 numbers
        raise LoadError(
            f"{file}: the chat template was stopped, as it does what no template needs to do: {error}; do not trust "
            f"the files of this source, or pass chat_template= with another template"
        ) from None
    except TemplateError as error:
        if type(error) is TemplateError:  # raised by the template itself
            raise ValueError(f"the chat template does not take these messages: {error}") from None
        raise ValueError(f"{file}: the chat template fails on these messages: {error}") from None
    except Exception as error:  # what Python raises for the expressions of a template
        problem = f"{type(error).__name__}: {error}"
        raise ValueError(f"{file}: the chat template fails on these messages: {problem}") from None
