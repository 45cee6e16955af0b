"""The flags by which commands read tables."""

import argparse
from typing import Any

FORMAT = ("header", "sep", "encoding")


def add_format_flags(parser: Any) -> None:
    """--header, --sep and --encoding; without them a table is read as it is found to be."""
    parser.add_argument("--header", action=argparse.BooleanOptionalAction, help="whether the first row has names")
    parser.add_argument("--sep", help="separator of cells: comma, semicolon, tab, pipe or a character")
    parser.add_argument("--encoding", help="such as cp1252")


def format_options(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of `add_format_flags` that were given, as options of `read_table`."""
    return {name: value for name in FORMAT if (value := getattr(args, name)) is not None}
