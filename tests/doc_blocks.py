"""Runs the fenced code blocks of README.md and docs/, on stand-ins for data, weights and long runs.

Blocks of one page share a folder (tests/doc_standins.py fills it) and the names of their Python, in order. A command of
a recipe runs for two steps; one with a `run_dir=` that nothing on the page reads runs in .ci/full alone, and elsewhere
its options are checked. `title="file.py"` after the language writes the block to that file as well. Two comments on the
line before a block change this, and a test counts them:

    <!-- not run: why -->       the block is only read for its language
    <!-- parsed: why -->        the options of its commands are checked, and nothing is run
"""

import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tables import settings_of, trains

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHOWN = {"text", "yaml", "json"}  # output and files, which nothing runs
SHORT = {"steps": "2", "batch_size": "8", "accelerator": "cpu", "precision": "fp32", "plots": "false",
         "progress": "false"}  # fmt: skip
GENERATING = ("translate", "summarize", "seq2seq_speech")  # write a text for each item of the test split
FEW = {"max_train_samples": "500", "max_test_samples": "8"}
LONG = {"epochs", "max_minutes", "hardware", "grad_cache_size", "validate_every"}  # options that two steps do not take
PUBLIC_DATA = re.compile(r"data=(cifar10|sst2|fsdd|emoji|tinyshakespeare|beans|uoft-cs/cifar100|PolyAI/minds14:en-US)$")
FULL = os.environ.get("ZOO_FULL", "0") != "0"
FENCE = re.compile(r"^(?:<!-- (not run|parsed): (.+?) -->\n)?```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: the line of its fence, and how and why it is not run, if it is not."""

    page: Path
    line: int
    language: str
    title: str
    code: str
    mark: str
    reason: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a bash block, without comments."""
        joined = self.code.replace("\\\n", " ")
        return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def blocks(page: Path) -> list[Block]:
    text, found = page.read_text(), []
    for match in FENCE.finditer(text):
        mark, reason, language, more, code = match.groups()
        title = re.search(r'title="([^"]+)"', more)
        line = text[: match.start()].count("\n") + 1 + bool(mark)
        found.append(Block(page, line, language, title[1] if title else "", code, mark or "", reason or ""))
    return found


class Runner:
    """Runs the blocks of one page in the current folder."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "page"}

    def run(self, block: Block) -> None:
        if block.title:
            Path(block.title).write_text(block.code)
        if block.language == "python":
            exec(compile("\n" * block.line + block.code, str(block.page), "exec"), self.names)
        elif block.language == "bash":
            for words in block.commands:
                self.command(words, block)

    def command(self, words: list[str], block: Block) -> None:
        """One command of a bash block: a script of Python, or `zoo`, in this process."""
        if words[0] == "python":
            script, argv = Path(words[1]), words[2:]
            if script.parent.name == "recipes" and trains(ROOT / script):
                if not FULL and not is_read(argv, block):
                    assert list(parse_commands(replace(block, code=shlex.join(words))))
                    return
                argv = shortened(argv, FEW if script.stem in GENERATING else None)
            status = run_script(script, argv)
        elif words[0] == "zoo":
            from zoo.cli.main import main

            status = main(few_tokens(words[1:]))
        else:
            raise AssertionError(f"{block.place}: no test runs the command {words[0]!r}")
        assert status == 0, f"{block.place}: {shlex.join(words)} ended with status {status}"


def is_read(options: list[str], block: Block) -> bool:
    """Whether a block of the page reads the folder of a run: one without a folder of its own has the usual one."""
    folder = next((word.removeprefix("run_dir=") for word in options if word.startswith("run_dir=")), None)
    return folder is None or sum(len(re.findall(rf"{folder}\b", other.code)) for other in blocks(block.page)) > 1


def few_tokens(words: list[str]) -> list[str]:
    """The words of a command with a length of 256 tokens, if they name one."""
    return ["256" if before == "--length" else word for before, word in zip(["", *words], words)]


def shortened(words: list[str], more: dict[str, str] | None = None) -> list[str]:
    """The options of a recipe for a run of two steps on data that a test has. more: further options."""
    if "--help" in words:
        return words
    options = SHORT | (more or {})
    kept = [word for word in words if word.partition("=")[0].rpartition(".")[2] not in {*options, *LONG}]
    kept = [PUBLIC_DATA.sub("data=synthetic", word) for word in kept]
    return [*kept, *(f"{key}={value}" for key, value in options.items())]


def run_script(script: Path, argv: list[str]) -> int:
    """Run a script as `python script argv` does; returns its exit status."""
    before, sys.argv = sys.argv, [str(script), *argv]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.argv = before
    return 0


def parse_commands(block: Block) -> Iterator[list[str]]:
    """Check the options of recipes, `torchrun`, `zoo compare` and sweeps of `zoo scaling`; yields what it checked."""
    from zoo.training.parse import parse
    from zoo.training.scaling.sweep import read_sweep
    from zoo.training.sweep.compare import read_plan

    for words in block.commands:
        script = next((Path(word) for word in words if word.startswith("recipes/")), None)
        if words[:2] == ["zoo", "compare"]:
            plan = read_plan(words[2], words[3:])
            for value in plan.values:
                parse(settings_of(plan.script), [*plan.shared, f"{plan.key}={value}"], recipe=plan.script.stem)
        elif words[:2] == ["zoo", "scaling"]:
            read_sweep(ROOT / words[2])
        elif script is not None:
            options = words[words.index(str(script)) + 1 :]
            parse(settings_of(ROOT / script), options, configs=ROOT / "configs", recipe=script.stem)
        else:
            pytest.fail(f"{block.place}: {shlex.join(words)} is not a command whose options a test can check")
        yield words
