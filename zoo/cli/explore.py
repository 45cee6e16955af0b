"""The command `zoo explore`. Torch is imported when it runs."""

import argparse
from collections.abc import Callable
from typing import Any


def add_command(command: Callable[..., Any]) -> None:
    """The parser; `command(name, run, about, more)` makes one."""
    new = command("explore", run_explore, "Write the attention of models for an input as an HTML page.",
                  'zoo explore MODEL "a text" --html page.html, or MODEL cat.png, or CLIP cat.png "a cat"; several '
                  "models are shown side by side: zoo explore BEFORE AFTER INPUT. The page is one file, which needs no "
                  "network and no server.")  # fmt: skip
    new.add_argument("source", metavar="MODEL", help="a model or run folder, or a hub repository; others may follow")
    new.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="a text, an image or an audio file; of models that read several, one of each; of models that write a text "
        "also that text (default: the one that they write)",
    )
    new.add_argument("--pair", nargs=2, metavar="TEXT", help="a pair of texts, or a question and its context")
    new.add_argument("--html", metavar="FILE.html", required=True, help="the page to write")
    new.add_argument(
        "--layers",
        metavar="N,...",
        default="*",
        help="numbers of blocks (-1 is the last) or names with wildcards, such as 'encoder.*.mixer'",
    )
    new.add_argument("--heads", metavar="N,...", help="numbers of heads (default: all)")
    new.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="show the first tokens of a long text, times of a long clip, or nodes of a large graph (those nearest to "
        "that of --around); the model reads all of them",
    )
    new.add_argument("--around", metavar="NODE", help="the node of a graph, by its name, around which others are shown")
    new.add_argument(
        "--roles",
        action="store_true",
        help="measure the role of each head on the input and on generated ones (zoo.head_roles), to sort heads by it",
    )
    new.add_argument(
        "--faithfulness",
        action="store_true",
        help="measure deletion and insertion curves of the input (zoo.faithfulness), for the table below the maps",
    )
    new.add_argument("--language", metavar="CODE", help="of the speech, for Whisper, such as de (default: detected)")
    new.add_argument("--resample", action="store_true", help="resample audio to the model's sampling rate")
    new.set_defaults(rest="inputs")


def run_explore(args: argparse.Namespace) -> int:
    from zoo.cli.explore_run import run

    return run(args)
