"""Where a chat template runs: jinja2's sandbox with the filters, functions and tags of transformers, and with limits.

The sandbox keeps a template from Python, but not from running for ever: here the turns of its loops and its calls are
counted, and the output and results of `*` and `**` are limited in size. Other ways to fill the memory, such as doubling
a text with `~` or formatting a number to a great width, are not.
"""

import json
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment, Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment as Sandbox
else:
    Sandbox = object

MAX_STEPS = 1_000_000  # turns of loops and calls of functions for one text
MAX_SIZE = 10_000_000  # characters, items or bits
steps_left: ContextVar[Iterator[int]] = ContextVar("steps_left")


class Stopped(Exception):
    """A template exceeded a limit."""


def run_template(template: str, variables: Mapping[str, Any]) -> str:
    """The text of a template. Raises what jinja2 and Python raise for it, and Stopped."""
    compiled, parts, size = _compiled(template), [], 0
    steps = steps_left.set(iter(range(MAX_STEPS)))
    try:
        for part in compiled.generate(variables):
            parts.append(part)
            if (size := size + len(part)) > MAX_SIZE:
                raise Stopped(f"it writes more than {MAX_SIZE:,} characters")
    finally:
        steps_left.reset(steps)
    return "".join(parts)


@lru_cache(maxsize=16)
def _compiled(template: str) -> "Template":
    return _environment().from_string(template)


@lru_cache(maxsize=1)
def _environment() -> "Environment":
    """jinja2 as transformers sets it, with limits. Its import takes a while, so this is done for the first template."""
    from jinja2 import nodes, pass_context
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """{% generation %} ... {% endgeneration %} marks what a model wrote, for training; here it is only written."""

        tags = {"generation"}  # noqa: RUF012, an instance variable of jinja2

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("write"), [], [], body).set_lineno(line)

        def write(self, caller: Any) -> Any:
            return caller()

    class LimitedEnvironment(Limits, ImmutableSandboxedEnvironment):
        def _generate(self, source: nodes.Template, *args: Any, **options: Any) -> str:
            for loop in source.find_all(nodes.For):
                loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.iter.lineno)
            return super()._generate(source, *args, **options)

    class PlainNamespace(Namespace):
        """`namespace()` that keeps no attributes of Python's objects."""

        def __init__(*args: Any, **attributes: Any) -> None:
            self, *rest = args
            for name in (attributes := dict(*rest, **attributes)):
                check_attribute(name)
            Namespace.__init__(self, attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            check_attribute(name)
            super().__setitem__(name, value)

    def check_attribute(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"it sets the attribute {name!r} of a namespace")

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = LimitedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters |= {"tojson": tojson, "counted": pass_context(counted)}  # so that compiling does not count
    environment.globals |= {
        "raise_exception": raise_exception, "strftime_now": strftime_now, "dict": Dict(), "namespace": PlainNamespace,
    }  # fmt: skip
    return environment


class Limits(Sandbox):
    """The part of the environment that counts calls and refuses great products."""

    intercepted_binops = frozenset(("*", "**"))

    def call(__self: Any, __context: Any, __obj: Any, *args: Any, **options: Any) -> Any:
        count_step()
        return super().call(__context, __obj, *args, **options)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if product_size(operator, left, right) > MAX_SIZE:
            raise Stopped(f"the result of {operator} has more than {MAX_SIZE:,} characters, items or bits")
        return super().call_binop(context, operator, left, right)


class Dict:
    """`dict()` without the attributes of the class."""

    def __call__(self, *args: Any, **items: Any) -> dict[Any, Any]:
        return dict(*args, **items)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def count_step() -> None:
    if next(steps_left.get(), None) is None:
        raise Stopped(f"it takes more than {MAX_STEPS:,} turns of loops and calls")


def counted(context: Any, items: Any) -> Iterator[Any]:
    """The items of a loop."""
    for item in items:
        count_step()
        yield item


def product_size(operator: str, left: Any, right: Any) -> float:
    """About the number of characters, items or bits of `left * right` or `left ** right`."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length(), right.bit_length()
        return bits[0] * abs(right) if operator == "**" else sum(bits)
    for items, count in ((left, right), (right, left)):
        if isinstance(items, str | list | tuple) and isinstance(count, int):
            return len(items) * count
    return 0


def tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON without the escapes for HTML of jinja2's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
