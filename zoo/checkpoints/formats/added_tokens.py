"""Special and added tokens of transformers' folders: tokens that are found in a text before it is split into pieces.

They stand in tokenizer_config.json (by role, in `additional_special_tokens` and in `added_tokens_decoder`), in
special_tokens_map.json, and in the added_tokens.json of older folders. They are added as transformers adds them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.utils.errors import LoadError
from zoo.utils.files import read_json

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")  # in the order in which transformers adds them
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
TYPES: dict[str, tuple[type, ...]] = {
    "do_lower_case": (bool,),
    "strip_accents": (bool,),
    "tokenize_chinese_chars": (bool,),
    "add_prefix_space": (bool,),
    "trim_offsets": (bool,),
    "add_bos_token": (bool,),
    "add_eos_token": (bool,),
    "model_max_length": (int, float),
    "added_tokens_decoder": (dict,),
    "additional_special_tokens": (list, dict),
    "extra_special_tokens": (list, dict),
    "tokenizer_class": (str,),
    "padding_side": (str,),
}
Added = list[tuple[int | None, "AddedToken"]]


def read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json with special_tokens_map.json, which counts in folders without `added_tokens_decoder`."""
    files = [folder / name for name in ("tokenizer_config.json", "special_tokens_map.json")]
    settings, named = (_checked(read_json(file), file) if file.is_file() else {} for file in files)
    return settings if "added_tokens_decoder" in settings else settings | named


def _checked(settings: dict[str, Any], file: Path) -> dict[str, Any]:
    """The settings. Raises LoadError for a value of another type than transformers reads."""
    for name, value in settings.items():
        if name in TYPES:
            valid = value is None or isinstance(value, TYPES[name])
        elif name[:-6] in ROLES and name.endswith("_token"):
            valid = value is None or isinstance(content_of(value), str)
        else:
            continue
        if not valid:
            raise LoadError(f"{file}: {name}={value!r} is of type {type(value).__name__}, which is not expected there")
    return settings


def content_of(token: Any) -> str | None:
    """The text of a token of the settings: a string, an object with `content`, or None."""
    return token.get("content") if isinstance(token, Mapping) else token


def declared(folder: Path, settings: Mapping[str, Any]) -> Added:
    """(id, or None for the next one that is free; token) of all tokens that a folder declares.

    Raises LoadError naming a token that is not one.
    """
    named = [settings[f"{role}_token"] for role in ROLES if settings.get(f"{role}_token") is not None]
    named += [value for key, value in settings.items() if key.endswith("_token") and key[:-6] not in ROLES
              and isinstance(value, str)]  # fmt: skip
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = settings.get(key) or []
        named += more.values() if isinstance(more, Mapping) else more
    special = [_token(value, folder, special=True) for value in named]
    found = _numbered(folder, settings, {token.content for token in special})
    known = {token.content for _, token in found}
    for token in special:
        if token.content not in known:
            known.add(token.content)
            found.append((None, token))
    return found


def add(tokenizer: "Tokenizer", tokens: Added, vocab_size: int) -> list[tuple[int, str]]:
    """Add tokens to a tokenizer, or give those that it has their flags.

    Returns (id, content) of the tokens that are not added, because a model of vocab_size has no embedding for them.
    Raises ValueError if a token has another id in the tokenizer.
    """
    absent = []
    following = tokenizer.get_vocab_size()
    for index, token in tokens:
        found = tokenizer.token_to_id(token.content)
        expected = following if found is None else found
        expected = expected if index is None else index
        if found is None and expected >= vocab_size:
            absent.append((expected, token.content))
            continue
        tokenizer.add_tokens([token])
        following += found is None
        if (actual := tokenizer.token_to_id(token.content)) != expected:
            raise ValueError(f"the token {token.content!r} is number {expected} in the list of added tokens, but "
                             f"{actual} in the tokenizer: these files do not belong together")  # fmt: skip
    return absent


def lacking(tokenizer: "Tokenizer", tokens: Added) -> Added:
    """Those of the tokens that a tokenizer does not add yet, or adds with other flags or another id."""
    known = {token.content: (index, token) for index, token in tokenizer.get_added_tokens_decoder().items()}
    return [
        (index, token)
        for index, token in tokens
        if token.content not in known or (index is not None and not _equal((index, token), known[token.content]))
    ]


def _equal(one: tuple[int, "AddedToken"], other: tuple[int, "AddedToken"]) -> bool:
    return one[0] == other[0] and all(getattr(one[1], flag) == getattr(other[1], flag) for flag in FLAGS)


def _numbered(folder: Path, settings: Mapping[str, Any], special: set[str]) -> Added:
    """The tokens with an id: `added_tokens_decoder`, or without it added_tokens.json."""
    file = folder / "added_tokens.json"
    if isinstance(values := settings.get("added_tokens_decoder"), Mapping):
        numbered = [(index, _token(value, folder, special=content_of(value) in special))
                    for index, value in values.items()]  # fmt: skip
    elif file.is_file():
        numbered = [
            (index, _token({"content": content, "normalized": content not in special}, folder, content in special))
            for content, index in read_json(file).items()
        ]
    else:
        return []
    if odd := next((index for index, _ in numbered if not str(index).isdecimal()), None):
        raise LoadError(f"{folder}: an added token has the id {odd!r}, expected a whole number from 0")
    order = sorted((int(index), place) for place, (index, _) in enumerate(numbered))
    return [(index, numbered[place][1]) for index, place in order]


def _token(value: Any, folder: Path, special: bool) -> "AddedToken":
    """A token of the settings: a string, or an object with `content` and flags."""
    from tokenizers import AddedToken

    content = content_of(value)
    flags = {name: value[name] for name in FLAGS if name in value} if isinstance(value, Mapping) else {}
    flags["special"] = special = special or bool(flags.get("special"))
    if not isinstance(content, str) or not content or any(not isinstance(flag, bool) for flag in flags.values()):
        raise LoadError(
            f"{folder / 'tokenizer_config.json'} or a file beside it: {value!r} is not a token, expected a text or "
            "an object with 'content' and flags"
        )
    return AddedToken(content, **{"normalized": not special} | flags)
