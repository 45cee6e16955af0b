"""The list of small faults, benchmarks/mutants.yaml, fits the code; benchmarks/mutants.py runs the tests on them."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def mutants() -> ModuleType:
    file = Path(__file__).parents[1] / "benchmarks" / "mutants.py"
    spec = spec_from_file_location("mutants", file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_fault_is_found_once_in_the_code_and_still_parses(mutants: ModuleType) -> None:
    listed = mutants.read_list()
    assert len(listed) >= 150
    assert not (wrong := mutants.problems(listed)), "\n".join(wrong)


def test_the_faults_spread_over_the_whole_package(mutants: ModuleType) -> None:
    root = Path(__file__).parents[1]
    packages = {f"zoo/{path.parent.name}" for path in (root / "zoo").glob("*/__init__.py")}
    assert {mutants.package(one) for one in mutants.read_list()} == packages


@pytest.mark.parametrize(("text", "replacement", "message"), [
    ("return 1", "return 2", "found 0 times"),
    ("x = 1", "x = 2", "found 2 times"),
    ("y = 2", "y =", "does not parse"),
    ("y = 2", "y = 2  # a comment", "only one of comments"),
])  # fmt: skip
def test_entries_that_do_not_fit(mutants: ModuleType, text: str, replacement: str, message: str) -> None:
    one = mutants.Mutant("zoo/file.py", "what it breaks", text, replacement, ())
    with pytest.raises(ValueError, match=message):
        one.changed("x = 1\ny = 2\nx = 1\n")
