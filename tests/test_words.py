"""The field's language: none of the words that only this project used, in code, messages, help, recipes and docs."""

import io
import re
import runpy
import sys
import tokenize
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest

import zoo.cli.main

ROOT = Path(__file__).parents[1]
# Tables of old names, each beside the new one.
ALIASES = {"zoo/utils/renamed.py"}
CODE = [
    path
    for folder in ("zoo", "recipes", "examples", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if str(path.relative_to(ROOT)) not in ALIASES
]
TEXTS = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "configs").rglob("*.yaml")),
    *sorted((ROOT / "data").glob("*.yaml")), ROOT / "data" / "README.md", ROOT / "pyproject.toml",
]  # fmt: skip

# In identifiers, comments, messages and prose: (what is not said, what is).
WORDS = (
    (r"sounds?", "audio, clip"),
    (r"pictures?", "image"),
    (r"hear(s|d|ing)?|hearers?|listen(s|ed|ing)?|listeners?", "take, process, audio processor"),
    (r"told|tells?|saying|said|asked|wanted", "say what it is"),
    (r"anew|amiss", "again, re-initialized; inconsistent"),
    (r"mend(s|ed|ing)?", "fix"),
    (r"draws?|drawn|drew|drawing", "sample, random; plot; initialize; synthetic"),
    (r"composed?s?|composing", "make, synthetic"),
    (r"figures", "metrics, numbers"),
    (r"things?", "item, input, what it is"),
    (r"dialects?", "mapping"),
    (r"overlays?", "hardware (of settings)"),
    (r"holdout|hold_out|patience(?!_)", "val_fraction, early_stopping_patience"),
    (r"licen[c]e|colou[r]s?|gre[y]|behaviou[r]|centr[e]s?|labelle[d]|modellin[g]|initialis\w+|normalis\w+|optimis\w+",
     "US spelling"),
)  # fmt: skip
# In sentences alone: comments, docstrings, messages, prose.
PHRASES = (
    (r"(?<!there )is no (?!longer)", "is not a"),
    (r"NOT REAL DATA", "synthetic data"),
    (r"(goes?|going|gone|went) on\b(?! (the|a|one|to a))", "continue, resume"),
    (r"leave \S+= (out|away)", "omit"),
    (r"embedded (set|sets|data|images?|audio|sentences|shapes|tones|text)", "synthetic"),
    (r"of one's own|one's own|somebody else's", "your own, custom"),
    (r"is no number|are no numbers", "is not finite"),
)
WHOLE = [(re.compile(rf"(?<![A-Za-z])({pattern})(?![A-Za-z])", re.IGNORECASE), word) for pattern, word in WORDS]
SAID = [(re.compile(pattern), word) for pattern, word in PHRASES]
# Names and words of others that are written so.
ALLOWED = re.compile(
    r"early[_ ]stopping[_ ]patience"
    r"|\"[^\"\n]*\{\}[^\"\n]*\"|'[^'\n]*\{\}[^'\n]*'"  # templates of captions and prompts: they decide results
    r"|'one can hear"  # a template that `--help` wraps
    r"|[Ff]igures\.md|[Ff]igures?(?=\])|^# Figures"  # the page of measurements
    r"|PIL\.ImageDraw|ImageDraw|^Draw$|set_figures|torch\.compose|Compose\b|v2\.Compose|anything|nothing|something|everything"
)
# Strings that must stay byte for byte, by file: keys of random numbers and texts that models learn from decide the
# numbers, and tables of users may have these column names.
KEPT = {
    "zoo/data/audio/spectrograms.py": re.compile(r'"hear/\w+"'),
    "zoo/data/audio/tables.py": re.compile(r'^"sound"$'),
    "zoo/data/sources/columns.py": re.compile(r'^"picture"$'),
    "zoo/data/pairs/tables.py": re.compile(r'^"sound"$'),
    "zoo/data/synthetic/stories.py": re.compile(r"asked \{friend\}|said \{name\}"),
}


@cache
def found(text: str, *, sentence: bool) -> tuple[str, ...]:
    """What a text has of these words; names come again and again, so each is looked at once."""
    text = ALLOWED.sub("", text)
    return tuple(
        f"{match[0]!r} (say: {word}) in ...{text[max(0, match.start() - 30) : match.end() + 30]}...".replace("\n", " ")
        for pattern, word in WHOLE + (SAID if sentence else [])
        for match in pattern.finditer(text)
    )


def parts(path: Path) -> Iterator[tuple[int, str, bool]]:
    """(line, text, whether it is a sentence) of each name, comment and string of a file."""
    kept = KEPT.get(str(path.relative_to(ROOT)), re.compile(r"(?!)"))
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string.replace("_", " "), False
        elif token.type in (tokenize.COMMENT, tokenize.STRING):
            yield token.start[0], kept.sub("", token.string), True


def test_code_speaks_the_language_of_the_field() -> None:
    wrong = [f"{path.relative_to(ROOT)}:{line}: {hit}" for path in CODE for line, text, is_text in parts(path)
             for hit in found(text, sentence=is_text)]  # fmt: skip
    assert not wrong, "\n".join(wrong[:40])


def test_texts_speak_the_language_of_the_field() -> None:
    wrong = [f"{path.relative_to(ROOT)}: {hit}" for path in TEXTS for line in path.read_text().splitlines()
             for hit in found(line, sentence=True)]  # fmt: skip
    assert not wrong, "\n".join(wrong[:40])


COMMANDS = ("", "list", "info", "predict", "generate", "embed", "search", "classify", "compare", "export", "verify",
            "timeline", "transcribe")  # fmt: skip


def help_of(*words: str) -> str:
    """What `zoo words --help` prints, or a script where the first word is its path."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", [words[0], *words[1:], "--help"])
        if words[0] == "zoo":
            raise SystemExit(zoo.cli.main.main())
        runpy.run_path(words[0], run_name="__main__")
    assert not end.value.code, f"{words}: {end.value.code}"
    return printed.getvalue()


def test_help_speaks_the_language_of_the_field() -> None:
    commands = [("zoo", *name.split()) for name in COMMANDS]
    commands += [(str(path),) for path in sorted((ROOT / "recipes").glob("*.py"))]
    printed = {words: help_of(*words) for words in commands}
    assert not [words for words, text in printed.items() if len(text) < 200]
    wrong = [f"{' '.join(words)}: {hit}" for words, text in printed.items() for hit in found(text, sentence=True)]
    assert not wrong, "\n".join(wrong[:40])
