"""Files of a folder that belong to a model but are not read here, such as a chat template: kept, or listed.

Kept files are text; `zoo.save` writes them again, and so does `zoo.export` to transformers where they apply.
"""

from fnmatch import fnmatch
from pathlib import Path

from zoo.utils.errors import LoadError
from zoo.utils.files import read_json

TEMPLATE = "chat_template.jinja"
TEMPLATES = "additional_chat_templates"  # a folder of {name}.jinja
GENERATION = "generation_config.json"
SENTENCE = "config_sentence_transformers.json"  # prompts by name, and the similarity of embeddings
KEPT = (TEMPLATE, f"{TEMPLATES}/*.jinja", GENERATION, SENTENCE)
# Files whose contents are in the model or its processor, other forms of the same weights, and files of caches.
READ = (
    "config.json", "preprocessor_config.json", "processor_config.json", "open_clip_config.json", "tokenizer*",
    "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "modules.json",
    "sentence_*_config.json", "[0-9]_*/config.json", "*.safetensors", "*.safetensors.index.json", "*.bin",
    "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.ot", ".*", ".*/", "__pycache__/",
)  # fmt: skip
LARGEST = 1 << 20  # bytes of a file that is kept


def read(folder: Path) -> tuple[dict[str, str], list[str]]:
    """({name: contents} of the files to keep, names of the others that are not read)."""
    kept: dict[str, str] = {}
    others = []
    if not folder.is_dir():
        return {}, []
    for name in sorted(_names(folder)):
        if _matches(name, KEPT) and (text := _text(folder / name)) is not None:
            kept[name] = text
        elif not _matches(name, READ):
            others.append(name)
    return _templates(folder) | kept, others


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
        elif entry.name == TEMPLATES or _matches(f"{entry.name}/config.json", READ):
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
    """The chat templates in tokenizer_config.json of older folders, as the files that transformers writes now."""
    file = folder / "tokenizer_config.json"
    found = read_json(file).get("chat_template") if file.is_file() else None
    if found is None or isinstance(found, str):
        return {} if found is None else {TEMPLATE: found}
    try:
        named = {str(entry["name"]): str(entry["template"]) for entry in found}
    except (TypeError, KeyError):
        raise LoadError(
            f"{file}: chat_template is a {type(found).__name__}, expected a text or a list of objects with 'name' and "
            f"'template'"
        ) from None
    if bad := [name for name in named if Path(name).name != name]:
        raise LoadError(f"{file}: chat_template has the name {bad[0]!r}, which is not the name of a file")
    return {TEMPLATE if name == "default" else f"{TEMPLATES}/{name}.jinja": text for name, text in named.items()}
