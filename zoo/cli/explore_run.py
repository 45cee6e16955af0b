"""What `zoo explore` does."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.checkpoints.load import SUFFIXES, load
from zoo.cli.predict_inputs import Reader
from zoo.interpret.explore.page import COLUMNS, explore
from zoo.interpret.faithfulness import faithfulness
from zoo.interpret.roles.head_roles import head_roles
from zoo.interpret.roles.result import HeadRoles
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.models.towers import TowersModel
from zoo.models.whisper.model import Whisper
from zoo.preprocessing.modality import MODALITIES, of_file, of_model
from zoo.utils.escape import say
from zoo.utils.files import WEIGHT_FILES

WEIGHTS = (*SUFFIXES, ".safetensors")


def run(args: argparse.Namespace) -> int:
    """Write the page; returns the exit status."""
    sources, words = split(args.source, args.inputs, args.pair is not None)
    if args.pair and words:
        raise ValueError(f"--pair and the input {words[0]!r}: give one of them")
    models = [load(source) for source in sources]
    for model in models:
        if args.resample:
            if not hasattr(model.preprocess, "resample"):
                raise ValueError(f"--resample is for audio, and the model takes {', '.join(model.inputs)}")
            model.preprocess = replace(model.preprocess, resample=True)
    inputs: Any = tuple(args.pair) if args.pair else read_inputs(models[0], sources[0], words)
    names = short_names(sources)
    shown = inputs if args.language is None else with_language(models, inputs, args.language)
    page = explore(
        models, shown, layers=choices(args.layers), heads=whole_numbers(args.heads), max_tokens=args.max_tokens,
        around=args.around,
        names=names, roles=[roles_of(model, inputs) for model in models] if args.roles else None,
        faithfulness=measured(models, names, inputs) if args.faithfulness else None,
    )  # fmt: skip
    page.save(args.html)
    say(f"{args.html} ({len(page.html.encode()) / 1e6:,.1f} MB) shows the attention of {' and '.join(sources)}")
    return 0


def with_language(models: Sequence[Any], inputs: Any, language: str) -> dict[str, Any]:
    """An audio clip, or [clip, the text that is written], with its language. Raises ValueError for other models."""
    for model in models:
        if not isinstance(model, Whisper):
            raise ValueError(f"--language is of speech, for Whisper, and a {type(model).__name__} takes none: omit it")
    clip, *text = inputs if isinstance(inputs, list) else [inputs]
    return {"audio": clip, "language": language} | ({"target": text[0]} if text else {})


def short_names(sources: Sequence[str]) -> list[str]:
    """The names of folders and files without their path, or the sources themselves if two names are the same."""
    names = [Path(source).resolve().name if Path(source).exists() else source for source in sources]
    return names if len(set(names)) == len(names) else list(sources)


def roles_of(model: Any, inputs: Any) -> HeadRoles:
    """The roles of heads on the input of the page and on generated ones; of a model of several towers those of each."""
    items = inputs if isinstance(inputs, list) else [inputs]
    if isinstance(model, TowersModel):
        return HeadRoles([row for item in items for row in head_roles(model, [item]).rows])
    pair = isinstance(items[0], tuple) and isinstance(items[0][0], str) and not isinstance(model, EncoderDecoder)
    return head_roles(model, list(items[0]) if pair else items[:1])


def measured(models: Sequence[Any], names: Sequence[str], inputs: Any) -> Any:
    """The result of `zoo.faithfulness` of one model, or the rows of several in one table."""
    found = [faithfulness(model, inputs) for model in models]
    if len(found) == 1:
        return found[0]
    return {
        f"{name}: {row['order']}": {title: row[column] for column, title in COLUMNS.items()}
        for name, result in zip(names, found)
        for row in result.rows
    }


def split(source: str, words: Sequence[str], has_input: bool) -> tuple[list[str], list[str]]:
    """(models, inputs) of a command line: models come first, as folders, weight files or repositories of the hub.

    has_input: whether the input is elsewhere (--pair); otherwise the last word is an input. Raises ValueError without
    an input.
    """
    sources = [source]
    last = len(words) - (not has_input)
    while len(sources) <= last and is_model(words[len(sources) - 1]):
        sources.append(words[len(sources) - 1])
    rest = list(words[len(sources) - 1 :])
    if not rest and not has_input:
        raise ValueError('give an input: zoo explore MODEL "a text" --html page.html, or MODEL cat.png, MODEL talk.wav')
    if not has_input and (Path(rest[0]).is_dir() if len(rest[0]) < 4096 else False) and not is_folder_input(rest[0]):
        raise ValueError(f"{rest[0]} is a folder: after the models, give one input, such as a text or an image file")
    return sources, rest


def is_model(word: str) -> bool:
    """Whether a word after the first model names another one rather than an input."""
    if len(word) > 1024:
        return False
    path = Path(word)
    if is_folder_input(path):
        return False
    if path.exists():
        return path.is_dir() or path.suffix in WEIGHTS or path.name in WEIGHT_FILES
    return of_file(word) is None and re.fullmatch(r"(hf-hub:)?\w[\w.-]*/[\w.-]+", word) is not None


def is_folder_input(path: str | Path) -> bool:
    """Whether a folder is one input, as a graph of nodes.csv and edges.csv is."""
    files = [record.folder_file for record in MODALITIES.values() if record.folder_file]
    return any(Path(path, file).is_file() for file in files)


def read_inputs(model: Any, source: str, words: Sequence[str]) -> Any:
    """The inputs of `zoo.explore`: a single one is read as `zoo predict` reads it, a text from its file."""
    modalities = of_model(model)
    if len(modalities) > 1 or not modalities:
        return list(words)
    first = Reader(modalities[0], source).read(words[:1])
    rows = list(first.rows)
    if len(rows) != 1 or isinstance(rows[0].item, Exception):
        problem = rows[0].item if len(rows) == 1 else f"{words[0]} has {len(rows)} inputs: a page shows one"
        raise ValueError(str(problem))
    return [rows[0].item, *words[1:]] if len(words) > 1 else rows[0].item


def choices(text: str) -> list[str | int]:
    """Numbers of blocks and names, separated by commas."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ValueError(f"--layers {text!r}: expected numbers of blocks or names of layers, such as 0,-1")
    return [int(word) if re.fullmatch(r"-?\d+", word) else word for word in words]


def whole_numbers(text: str | None) -> list[int] | None:
    """Numbers separated by commas."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"-?\d+", word) for word in words):
        raise ValueError(f"--heads {text!r}: expected numbers of heads, such as 0,3")
    return [int(word) for word in words]
