"""Reading a table for the model of a run: its columns, and messages that name flags in place of a recipe's options."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from zoo.cli.table_options import FORMAT
from zoo.training.run_dir import read_config
from zoo.utils.console import announce
from zoo.utils.errors import DataError

T = TypeVar("T")
OTHER_OPTIONS = {"molecule": "smiles", "point_cloud": "points"}  # of columns, where they have not the modality's name


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
    options = re.compile(rf"(?<![\w.-])({'|'.join((*flags, *FORMAT))})=(\S*)")

    def flag(option: re.Match[str]) -> str:
        name, value = option.groups()
        if name == "header":
            return "--no-header" if value == "false" else "--header"
        return f"{flags.get(name, f'--{name}')} {value}".rstrip()

    return options.sub(flag, text)


def column_of_run(source: str, option: str) -> str:
    """The column `data.<option>` that the run of a model was trained on; empty if that is not known.

    The texts of a translator are those of `data.source_text`.
    """
    option = OTHER_OPTIONS.get(option, option)
    for folder in (Path(source), Path(source).parent):
        if (folder / "config.yaml").is_file():
            data = read_config(folder).get("data")
            data = data if isinstance(data, dict) else {}
            value = data.get("source_text" if option == "text" and "source_text" in data else option)
            return value if isinstance(value, str) else ""
    return ""
