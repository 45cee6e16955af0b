"""How tables are read: the flags that the commands share, and messages of data sets with flags in place of options."""

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from zoo.training.run_dir import read_config
from zoo.utils.console import announce
from zoo.utils.errors import DataError

FORMAT = ("header", "sep", "encoding")
OPTION = re.compile(r"(?<![\w.-])(text|image|audio|label|header|sep|encoding)=(\S*)")  # of a recipe, in a message

T = TypeVar("T")


def add_format_flags(parser: Any) -> None:
    """--header, --sep and --encoding; without them a table is read as it is found to be."""
    parser.add_argument("--header", action=argparse.BooleanOptionalAction, help="whether the first row has names")
    parser.add_argument("--sep", help="separator of cells: comma, semicolon, tab, pipe or a character")
    parser.add_argument("--encoding", help="such as cp1252")


def format_options(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of `add_format_flags` that were given, as options of `read_table`."""
    return {name: value for name in FORMAT if (value := getattr(args, name)) is not None}


def with_flags(call: Callable[[], T], flags: Mapping[str, str]) -> T:
    """The result of a call whose errors name options of recipes, which are flags here: {"text": "--text-column"}."""
    try:
        return call()
    except DataError as error:
        raise DataError(_rewritten(str(error), flags)) from error


def notice_with_flags(flags: Mapping[str, str]) -> Callable[[str], None]:
    """A `notify` of `read_table` that names flags."""
    return lambda text: announce(_rewritten(text, flags))


def _rewritten(text: str, flags: Mapping[str, str]) -> str:
    def flag(option: re.Match[str]) -> str:
        name, value = option.groups()
        if name == "header":
            return "--no-header" if value == "false" else "--header"
        return f"{flags.get(name, f'--{name}')} {value}".rstrip()

    return OPTION.sub(flag, text)


def column_of_run(source: str, option: str) -> str:
    """The column `data.<option>` that the run of a model was trained on; empty if that is not known."""
    for folder in (Path(source), Path(source).parent):
        if (folder / "config.yaml").is_file():
            data = read_config(folder).get("data")
            value = data.get(option) if isinstance(data, dict) else None
            return value if isinstance(value, str) else ""
    return ""
