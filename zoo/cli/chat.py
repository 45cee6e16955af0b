"""The commands `zoo generate` and `zoo chat`. Torch is imported when they run."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.cli.settings import settings
from zoo.utils.escape import say

OF_PYTHON = ("cache", "draft", "logits_processor", "streamer", "tokenizer")
OPTIONS = "max_new_tokens=64 temperature=0.8 top_p=0.9 seed=1"


def add_commands(command: Callable[..., Any]) -> None:
    """The parsers; `command(name, run, about, more)` makes one."""
    new = command("generate", run_generate, "Continue, translate or summarize a text, streamed to the terminal.")
    new.add_argument("source", metavar="FOLDER", help="a model or run folder, or a hub repository")
    new.add_argument("prompt", help="the text to continue")
    new.add_argument("options", nargs="*", metavar="key=value", help=OPTIONS)
    new.set_defaults(rest="options")

    new = command("chat", run_chat, "Converse with a language model, streamed to the terminal.",
                  "Each line is a message; Ctrl-C stops an answer, Ctrl-D ends. If the input is not a terminal, one "
                  "message is read from each line.")  # fmt: skip
    new.add_argument("source", metavar="FOLDER", help="a model or run folder, or a hub repository")
    new.add_argument("options", nargs="*", metavar="key=value", help=OPTIONS)
    new.add_argument("--system", metavar="TEXT", help="the system prompt")
    new.add_argument("--chat-template", metavar="FILE", help="a Jinja template instead of the folder's")
    new.add_argument("--chat-template-kwargs", metavar="key=value", action="append", default=[],
                     help="a variable of the template, such as enable_thinking=false (repeatable)")  # fmt: skip
    new.set_defaults(rest="options")


def run_generate(args: argparse.Namespace) -> int:
    from zoo.inference.generation.streaming import stream_text

    stream_text(args.source, args.prompt, **options_of(args))
    print()
    return 0


def run_chat(args: argparse.Namespace) -> int:
    from zoo.inference.generation.chat import Chat
    from zoo.utils.files import read_text

    template = None if args.chat_template is None else read_text(Path(args.chat_template))
    variables = settings(args.chat_template_kwargs)
    chat = Chat(args.source, args.system, chat_template=template, chat_template_kwargs=variables, **options_of(args))
    if terminal := sys.stdin.isatty():
        say("Ctrl-C stops an answer, Ctrl-D ends the conversation.", file=sys.stderr)
    while (message := read_message(terminal)) is not None:
        if not message.strip():
            continue
        dropped = chat.num_dropped
        try:
            chat.reply(message)
        except KeyboardInterrupt:
            if not terminal:
                raise
        except ValueError as error:
            if not terminal:
                raise
            say(f"error: {error}", file=sys.stderr)
        print()
        if chat.num_dropped > dropped:
            say(f"The conversation is longer than the model's {chat.limit} tokens: it no longer sees the first "
                f"{chat.num_dropped} messages.", file=sys.stderr)  # fmt: skip
    return 0


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options of zoo.generate. Raises ValueError for those whose values a command line cannot give."""
    options = settings(args.options)
    for name in OF_PYTHON:
        if name in options:
            raise ValueError(f"{name}= takes an object of Python: call zoo.generate with it")
    return options


def read_message(terminal: bool) -> str | None:
    """The next message; None at the end. On a terminal, Ctrl-C clears the line."""
    if not terminal:
        line = sys.stdin.readline()
        return line.rstrip("\n").removeprefix("\ufeff") if line else None  # some editors begin a file with this mark
    try:
        return input("> ")
    except KeyboardInterrupt:
        print()
        return ""
    except EOFError:
        print()
        return None
