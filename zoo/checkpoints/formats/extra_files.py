"""Files of a folder that belong to a model beside its weights and settings, such as a chat template: kept, or listed.

Kept files are text; `zoo.save` writes them again, and so does `zoo.export` to transformers where they apply.
"""

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from zoo.preprocessing.bridge import BridgeProcessor
from zoo.preprocessing.chat_template import FILE, FOLDER, check_names, template_files, templates_in
from zoo.preprocessing.text import TextProcessor
from zoo.utils.errors import LoadError
from zoo.utils.files import read_json, read_text

GENERATION = "generation_config.json"
SENTENCE = "config_sentence_transformers.json"  # prompts by name, and the similarity of embeddings
TEMPLATES = (FILE, f"{FOLDER}/*.jinja")  # a text model's processor keeps them
KEPT = (*TEMPLATES, GENERATION, SENTENCE)
# Files whose contents are in the model or its processor, other forms of the same weights, and files of caches.
READ = (
    "config.json", "preprocessor_config.json", "processor_config.json", "open_clip_config.json", "tokenizer*",
    "special_tokens_map.json", "added_tokens.json", "chat_template.json", "vocab.*", "merges.txt", "*.model",
    "modules.json", "source.spm", "target.spm", "target_vocab.json", "sentence_*_config.json", "[0-9]_*/config.json",
    "*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.h5",
    "*.msgpack", "*.onnx", "*.ot", ".*", ".*/", "__pycache__/",
)  # fmt: skip
LARGEST = 1 << 20  # bytes of a file that is kept


def read(folder: Path) -> tuple[dict[str, str], list[str]]:
    """({name: contents} of the files to keep, names of the others that are not read).

    Raises LoadError for a chat template that cannot be read: the one in the settings may be another.
    """
    kept: dict[str, str] = {}
    others = []
    if not folder.is_dir():
        return {}, []
    for name in sorted(_names(folder)):
        if _matches(name, TEMPLATES):
            kept[name] = read_text(folder / name)
        elif _matches(name, KEPT) and (text := _text(folder / name)) is not None:
            kept[name] = text
        elif not _matches(name, READ):
            others.append(name)
    if not any(_matches(name, TEMPLATES) for name in kept):  # as in transformers, files replace those of the settings
        kept |= _templates(folder)
    return kept, others


def with_templates(processor: Any, files: Mapping[str, str]) -> tuple[Any, Mapping[str, str]]:
    """(the processor of texts, or of a bridge, with the chat templates among the files, the other files)."""
    if isinstance(processor, BridgeProcessor):
        text, files = with_templates(processor.text, files)
        return replace(processor, text=text), files
    if not isinstance(processor, TextProcessor):
        return processor, files
    if not (templates := {name: text for name, text in files.items() if _matches(name, TEMPLATES)}):
        return processor, files
    others = {name: text for name, text in files.items() if name not in templates}
    return replace(processor, chat_template=templates_in(templates)), others


def for_export(files: dict[str, str], head: str | None) -> dict[str, str]:
    """The files that apply to a folder of transformers for a model with this head."""
    unused = {"lm": (SENTENCE,), "pool": (GENERATION,)}.get(head or "", (SENTENCE, GENERATION))
    return {name: text for name, text in files.items() if name not in unused}


def _names(folder: Path) -> list[str]:
    """Names of the files of a folder and of those subfolders that are read, and `name/` of its other subfolders."""
    names = []
    for entry in folder.iterdir():
        if entry.is_file():
            names.append(entry.name)
        elif entry.name == FOLDER or _matches(f"{entry.name}/config.json", READ):
            names += [f"{entry.name}/{inner.name}" for inner in entry.iterdir() if inner.is_file()]
        else:
            names.append(f"{entry.name}/")
    return names


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)


def _text(file: Path) -> str | None:
    """The contents of a text file that is not too large, else None."""
    try:
        return file.read_text(encoding="utf-8") if file.stat().st_size <= LARGEST else None
    except (UnicodeDecodeError, OSError):
        return None


def _templates(folder: Path) -> dict[str, str]:
    """The chat templates in the JSON files of older folders, as the files that transformers writes now."""
    names = ("chat_template.json", "tokenizer_config.json", "processor_config.json")
    contents = {folder / name: read_json(folder / name) for name in names if (folder / name).is_file()}
    named = {file: values["chat_template"] for file, values in contents.items() if values.get("chat_template")}
    file, found = next(iter(named.items()), (folder, None))
    if found is None or isinstance(found, str):
        return template_files(found)
    try:
        templates = {str(entry["name"]): str(entry["template"]) for entry in found}
    except (TypeError, KeyError):
        raise LoadError(
            f"{file}: chat_template is a {type(found).__name__}, expected a text or a list of objects with 'name' and "
            f"'template'"
        ) from None
    try:
        check_names(templates)
    except ValueError as error:
        raise LoadError(f"{file}: {error}") from None
    return template_files(templates)
