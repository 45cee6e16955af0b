"""What `zoo infill` does."""

import argparse
from inspect import signature
from pathlib import Path

from zoo.checkpoints.load import load
from zoo.cli.settings import is_option, options_of
from zoo.inference.generation.generate import generate
from zoo.inference.generation.infill import infill
from zoo.utils.escape import say
from zoo.utils.files import read_text
from zoo.utils.lines import around_line


def infill_command(args: argparse.Namespace) -> int:
    """Print what the model writes; returns the exit status."""
    words: list[str] = []
    texts: list[str] = []
    names = {*signature(generate).parameters, *signature(infill).parameters}
    for word in args.texts:
        # code such as `x=` has the form of an option: the first text is one, unless an option has its name
        is_text = not is_option(word) or not (texts or args.file or word.partition("=")[0] in names)
        (texts if is_text else words).append(word)
    options = options_of(words)
    if (args.file is None) != (args.line is None):
        raise ValueError("--file and --line belong together: give the file, and the number of its line to write")
    if args.file is not None:
        if texts:
            raise ValueError(f"--file and the text {texts[0]!r} are both given: give only one of them")
        prefix, suffix = around_line_of(args.file, args.line)
    elif len(texts) not in (1, 2):
        raise ValueError(f"{len(texts)} texts: expected the text before what is to be written, and that after it; or "
                         f"--file FILE --line N")  # fmt: skip
    else:
        prefix, suffix = texts[0], "".join(texts[1:])
    if options.get("num_return_sequences", 1) != 1:
        raise ValueError("num_return_sequences= is for zoo.infill: the command writes one text")
    say(infill(load(args.source), prefix, suffix, **options))
    return 0


def around_line_of(file: Path, line: int) -> tuple[str, str]:
    """(text before a line, text after it with the line feed). Raises: ValueError for a line that the file lacks."""
    lines = read_text(file).split("\n")
    if not 1 <= line <= len(lines):
        raise ValueError(f"--line {line}: {file} has {len(lines)} lines")
    return around_line(lines, line - 1)
