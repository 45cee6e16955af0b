"""Lines of Python files for a model to write, from what stands before them or on both sides."""

import io
import keyword
import random
import tokenize
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zoo.utils.errors import DataError
from zoo.utils.keyed_random import seed_for
from zoo.utils.lines import around_line

# Names that say no more than the line feed before them: a line of these alone is left out.
_TRIVIAL = frozenset(keyword.kwlist) | {"self", "cls"}


@dataclass(frozen=True)
class CodeLine:
    """A line of a file. before, after: the text of the file before the line and after it, with the line feeds next to
    it. is_known: whether a training file has the same line, at any indentation."""

    before: str
    line: str
    after: str
    is_known: bool


def lines_of_code(text: str) -> list[int]:
    """Numbers of the lines, from 0, on which a name begins that is not a keyword.

    So blank lines, closing brackets, comments, text inside strings (docstrings too), and lines such as `else:` or
    `return` are none of them. A file that Python cannot read has none.
    """
    found = set()
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME and token.string not in _TRIVIAL:
                found.add(token.start[0] - 1)
    except (tokenize.TokenError, SyntaxError):
        return []
    return sorted(found)


def sample_lines(texts: Sequence[str], training: Iterable[str], count: int, seed: int) -> list[CodeLine]:
    """`count` random lines of code of the texts, or all if there are fewer; the same for the same texts and seed.

    Raises: DataError if the texts have none.
    """
    if not count:
        return []
    places = [(number, line) for number, text in enumerate(texts) for line in lines_of_code(text) if line]
    if not places:
        raise DataError("the held-out files have no line of code after their first line")
    chosen = sorted(random.Random(seed_for(seed, len(places))).sample(places, min(count, len(places))))
    known = {line.strip() for text in training for line in text.split("\n")}
    found = []
    for number, line in chosen:
        lines = texts[number].split("\n")
        before, after = around_line(lines, line)
        found.append(CodeLine(before, lines[line], after, lines[line].strip() in known))
    return found
