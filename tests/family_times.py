"""`pytest --family-times`: CPU seconds of the contract and parity tests of each family of models, the most first.

Each test counts for the family that its parameters, its file or its name names. CPU time hardly depends on what else
the machine does; what all tests share, the import of other libraries and the start of torch.compile, is left out.
"""

import gc
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module

import pytest

LIMIT = 5.0  # seconds a family, the goal
TESTS = re.compile(r"tests/models/test_(contract|contrast|parity|\w+_parity|audio_ast|audio_waves)\.py::")
KEY = "family"
FILES = {
    "audio_ast": "ast", "audio_waves": "wav2vec2", "vit": "vit", "clip": "clip", "contrast": "contrast",
    "decoder": "gpt2", "encoder": "bert",
}  # fmt: skip
IMPORTED = (
    "timm", "transformers", "transformers.modeling_utils", "open_clip", "matplotlib.figure", "zoo.checkpoints.load",
)  # fmt: skip


def family_of(nodeid: str, families: list[str], variants: dict[str, str]) -> str:
    """The family of a test, `other` if it is of none.

    nodeid: `tests/models/test_contract.py::test_export[vit]`. variants: {name of a variant: its family}.
    """
    file, _, test = nodeid.partition("::")
    function, _, parameters = test.partition("[")
    stem = file.rpartition("/test_")[2].removesuffix(".py")
    by_file = next((name for start, name in FILES.items() if stem.startswith(start)), "other")
    for word in parameters.rstrip("]").split("-"):
        if word in families or word in variants:
            return variants.get(word, word)
    if by_file == "contrast":  # its parameters are names of towers
        return by_file
    if found := named(parameters, families):
        return found
    return by_file if stem.startswith("audio") else named(function, families) or by_file


def named(text: str, families: list[str]) -> str:
    """The family that a text names, as in `BertForMaskedLM` or `test_training_llama_gives_losses`; "" if none."""
    words = [word.lower() for word in re.findall(r"[A-Z]+[a-z0-9]*|[a-z0-9]+", text)]
    joined = "".join(words)
    found = [name for name in families if name in words or (len(name) > 4 and name.replace("_", "") in joined)]
    return max(found, key=len, default="")


def start_shared() -> None:
    """What the first test would pay for all: imports of other libraries, and the start of torch.compile."""
    import torch

    for name in IMPORTED:
        with suppress(ImportError):
            import_module(name)
    torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1))
    torch._dynamo.reset()
    gc.collect()
    gc.freeze()  # as after the collection of all tests, see conftest.py


class FamilyTimes:
    """Measures tests where they run, and adds up where the summary is printed (the same process without xdist)."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.slowest: dict[str, tuple[float, str]] = {}
        self.names: tuple[list[str], dict[str, str]] | None = None
        self.started = False

    def family(self, nodeid: str) -> str:
        if self.names is None:
            from zoo.models.registry import families

            found = list(families())
            self.names = [f.name for f in found], {variant: f.name for f in found for variant in f.variants}
        return family_of(nodeid, *self.names)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        if not TESTS.match(item.nodeid):
            return (yield)
        if not self.started:
            self.started = True
            start_shared()
        before = time.process_time()
        try:
            return (yield)
        finally:
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
            name = nodeid.rpartition("/")[2]
            terminalreporter.line(f"{seconds:6.1f}  {family:10}  slowest {slowest:.1f} s {name}{mark}")
