"""Extensions of griffe for mkdocs.yml, which read the source as it is written here."""

import ast
import re
from typing import Any

import griffe

INLINE = re.compile(r"^(Raises|Returns|Source): (\S.*(?:\n +\S.*)*)", re.MULTILINE)
ARGUMENTS = re.compile(r"(?:^|(?<=[.;] ))((?:\w+(?:, | and ))*\w+): ")


class LazyExports(griffe.Extension):
    """Makes the names that a package imports on first use members of it.

    griffe does not run the code, so it does not see what a module `__getattr__` finds: an alias is added for each entry
    of the tables `_WHERE` (of `zoo`) and `_HOME` (of its packages).
    """

    def on_module(self, *, mod: griffe.Module, **kwargs: Any) -> None:
        for table, prefix in (("_WHERE", "zoo."), ("_HOME", "")):
            value = mod.members.get(table)
            if not isinstance(value, griffe.Attribute):
                continue
            for name, home in ast.literal_eval(str(value.value)).items():
                if name not in mod.members:  # imported for type checkers
                    mod.set_member(name, griffe.Alias(name, f"{prefix}{home}.{name}", parent=mod))


class RunningText(griffe.Extension):
    """Shows arguments that a docstring describes in running text, `name: what it is. other: what it is.`, as a list.

    `Raises: ValueError for ...` on one line and those that continue it becomes a paragraph: for griffe it is the start
    of a section whose entries are the lines below.
    """

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        as_list(func, {parameter.name.lstrip("*") for parameter in func.parameters})

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        names = set(cls.members)
        for method in ("__init__", "forward"):
            if isinstance(found := cls.members.get(method), griffe.Function):
                names |= {parameter.name.lstrip("*") for parameter in found.parameters}
        as_list(cls, names)


def as_list(item: griffe.Object, names: set[str]) -> None:
    """Rewrite the paragraphs of a docstring that start with one of `names` or `Raises`, and a colon."""
    if item.docstring is not None:
        text = INLINE.sub(lambda m: f"\n**{m[1]}:** {' '.join(m[2].split())}", item.docstring.value)
        paragraphs = re.split(r"\n{2,}", text.strip())
        item.docstring.value = "\n\n".join(paragraph_as_list(text, names) for text in paragraphs)


def paragraph_as_list(text: str, names: set[str]) -> str:
    lines = text.splitlines()
    if not lines or lines[0].startswith(" "):  # code, or part of a section
        return text
    flowing = " ".join(line.strip() for line in lines)
    found = [m for m in ARGUMENTS.finditer(flowing) if set(re.split(r", | and ", m[1])) <= names]
    if not found or found[0].start() > 0:
        return text
    ends = [*(match.start() for match in found[1:]), len(flowing)]
    items = (
        f"- **{m[1].replace('_', chr(92) + '_')}**: {flowing[m.end() : end].strip()}" for m, end in zip(found, ends)
    )
    return "\n".join(items)
