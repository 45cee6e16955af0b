"""The commands `zoo generate` and `zoo chat`. Torch is imported when they run."""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.cli.settings import is_option, options_of, settings
from zoo.utils.escape import say

OPTIONS = "max_new_tokens=64 temperature=0.8 top_p=0.9 seed=1"


def add_commands(command: Callable[..., Any]) -> None:
    """The parsers; `command(name, run, about, more)` makes one."""
    new = command("generate", run_generate, "Continue, translate or summarize a text, or describe an image, streamed "
                  "to the terminal; or make images of a text.",
                  'Images: zoo generate FOLDER "a red circle above a blue square" --out sheet.png num_images=16 '
                  "guidance_scale=3 temperature=0.7 seed=1 --rerank RANKER; with --image FILE keep=ROWS the rows of "
                  "its tokens stay.")  # fmt: skip
    new.add_argument("source", metavar="FOLDER", help="a model or run folder, or a hub repository")
    new.add_argument("prompt", nargs="?", help="the text to continue, or a question; not needed for a caption")
    new.add_argument("options", nargs="*", metavar="key=value", help=OPTIONS)
    for kind in ("image", "audio"):
        new.add_argument(f"--{kind}", metavar="FILE", action="append", default=[],
                         help=f"{kind} for a model that reads it (repeatable)")  # fmt: skip
    new.add_argument("--out", metavar="FILE", help="sheet of the images that a model makes, PNG (images.png)")
    new.add_argument("--overwrite", action="store_true", help="replace an existing FILE")
    new.add_argument("--rerank", metavar="FOLDER", help="contrastive model of images and texts that orders the images")
    new.set_defaults(rest="options")

    new = command(
        "chat",
        run_chat,
        "Converse with a language model, streamed to the terminal.",
        "Each line is a message; Ctrl-C stops an answer, Ctrl-D ends. If the input is not a terminal, one "
        "message is read from each line. With a model that reads images, files among the arguments belong to "
        "the first message, and a line /image FILE adds one to the next; with one of audio, /audio FILE.",
    )
    new.add_argument("source", metavar="FOLDER", help="a model or run folder, or a hub repository")
    new.add_argument("options", nargs="*", metavar="FILE|key=value", help=f"images, or clips; {OPTIONS}")
    new.add_argument("--system", metavar="TEXT", help="the system prompt")
    new.add_argument("--chat-template", metavar="FILE", help="a Jinja template instead of the folder's")
    new.add_argument("--chat-template-kwargs", metavar="key=value", action="append", default=[],
                     help="a variable of the template, such as enable_thinking=false (repeatable)")  # fmt: skip
    new.set_defaults(rest="options")


def run_generate(args: argparse.Namespace) -> int:
    from zoo.cli.generate_run import generate_command

    return generate_command(args)


def run_chat(args: argparse.Namespace) -> int:
    from zoo.inference.generation.chat import Chat
    from zoo.utils.files import read_text

    template = None if args.chat_template is None else read_text(Path(args.chat_template))
    variables = settings(args.chat_template_kwargs)
    files = [word for word in args.options if not is_option(word)]
    options = options_of([word for word in args.options if is_option(word)])
    chat = Chat(args.source, args.system, chat_template=template, chat_template_kwargs=variables, **options)
    images = [chat.check_image(Path(file)) for file in files]
    if terminal := sys.stdin.isatty():
        more = f" /{chat.reads} FILE adds one to the next message." if chat.reads else ""
        say(f"Ctrl-C stops an answer, Ctrl-D ends the conversation.{more}", file=sys.stderr)
    while (message := read_message(terminal)) is not None:
        if not message.strip():
            continue
        dropped = chat.num_dropped
        try:
            if file := re.match(r"/(?:image|audio)\s+(.*\S)", message):
                images.append(chat.check_image(Path(file[1])))
                continue
            sent, images = images, []
            chat.reply(message, images=sent)
        except KeyboardInterrupt:
            if not terminal:
                raise
        except (ValueError, OSError) as error:
            if not terminal:
                raise
            say(f"error: {error}", file=sys.stderr)
        print()
        if chat.num_dropped > dropped:
            say(f"The conversation is longer than the model's {chat.limit} tokens: it no longer sees the first "
                f"{chat.num_dropped} messages.", file=sys.stderr)  # fmt: skip
    return 0


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
