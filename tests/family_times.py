"""`pytest --family-times`: CPU seconds of the contract and parity tests of each family of models, the most first.

Each test in tests/models counts for the family that its parameters, its name or its file names. CPU time hardly depends
on what else the machine does; what several tests share (imports, compiled graphs) counts for the first of them.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

LIMIT = 5.0  # seconds a family, the goal
PLACE = "tests/models/"
KEY = "family"
FILES = {
    "audio_ast": "ast", "audio_waves": "wav2vec2", "vit": "vit", "clip": "clip", "contrast": "contrast",
    "decoder": "gpt2", "encoder": "bert",
}  # fmt: skip


def family_of(nodeid: str, families: list[str], variants: dict[str, str]) -> str:
    """The family of a test, `other` if it is of none.

    nodeid: `tests/models/test_contract.py::test_export[vit]`. variants: {name of a variant: its family}.
    """
    file, _, test = nodeid.partition("::")
    function, _, parameters = test.partition("[")
    words = parameters.rstrip("]").split("-")
    for word in words:
        if word in families or word in variants:
            return variants.get(word, word)
    for text in (parameters, function):
        plain = re.sub(r"[^a-z0-9]", "", text.lower())
        if found := [name for name in families if name.replace("_", "") in plain]:
            return max(found, key=len)
    stem = Path(file).stem.removeprefix("test_")
    return next((name for start, name in FILES.items() if stem.startswith(start)), "other")


class FamilyTimes:
    """Measures tests where they run, and adds up where the summary is printed (the same process without xdist)."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.slowest: dict[str, tuple[float, str]] = {}
        self.names: tuple[list[str], dict[str, str]] | None = None

    def family(self, nodeid: str) -> str:
        if self.names is None:
            from zoo.models.registry import families

            found = list(families())
            self.names = [f.name for f in found], {variant: f.name for f in found for variant in f.variants}
        return family_of(nodeid, *self.names)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        before = time.process_time()
        try:
            return (yield)
        finally:
            if item.nodeid.startswith(PLACE):
                item.user_properties.append((KEY, time.process_time() - before))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for key, seconds in report.user_properties if report.when == "call" else ():
            if key == KEY:
                family = self.family(report.nodeid)
                self.seconds[family] += seconds
                self.slowest[family] = max(self.slowest.get(family, (0.0, "")), (seconds, report.nodeid))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.seconds:
            return
        terminalreporter.section("CPU seconds of contract and parity, by family")
        for family, seconds in self.seconds.most_common():
            slowest, nodeid = self.slowest[family]
            mark = f"  above {LIMIT:g} s" if seconds > LIMIT and family != "other" else ""
            name = nodeid.removeprefix(PLACE)
            terminalreporter.line(f"{seconds:6.1f}  {family:10}  slowest {slowest:.1f} s {name}{mark}")
