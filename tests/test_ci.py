"""The scripts of the CI, with stand-ins for the programs that they run."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAND_IN = """#!/bin/bash
echo "{name} $* (ZOO_FULL=${{ZOO_FULL:-}}, ZOO_HYPOTHESIS_FACTOR=${{ZOO_HYPOTHESIS_FACTOR:-}})" >> "$CI_LOG"
case "$*" in *"$CI_FAILS"*) exit 1 ;; esac
"""


@pytest.fixture
def ci(tmp_path: Path):
    """Runs a script of .ci: (exit status, output, commands). A command with `fails` in it fails."""
    version = subprocess.run(["python3", "--version"], capture_output=True, check=True, cwd=ROOT).stdout
    key = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + version).hexdigest()[:16]
    env, log = tmp_path / "attention-zoo" / f"env-{key}", tmp_path / "log"
    (env / "bin").mkdir(parents=True)
    (env / "complete").touch()
    for name in ("python", "pip", "ruff", "mypy", "pip-audit"):
        (env / "bin" / name).write_text(STAND_IN.format(name=name))
        (env / "bin" / name).chmod(0o755)

    def run(*words: str, fails: str = "nothing at all") -> tuple[int, str, list[str]]:
        log.write_text("")
        variables = {"XDG_CACHE_HOME": str(tmp_path), "ZOO_REAL_DIR": str(tmp_path), "CI_LOG": str(log),
                     "CI_FAILS": fails, "ZOO_BROWSER": "", "ZOO_TEST_WORKERS": "2"}  # fmt: skip
        done = subprocess.run([ROOT / ".ci" / words[0], *words[1:]], env=os.environ | variables, capture_output=True,
                              text=True, timeout=120)  # fmt: skip
        return done.returncode, done.stdout + done.stderr, log.read_text().splitlines()

    return run


def test_run_checks_and_passes_its_arguments_to_pytest(ci):
    status, output, ran = ci("run", "-k", "masks")
    assert status == 0, output
    programs = [line.partition(" (")[0] for line in ran]
    assert [p for p in programs if p.startswith("ruff")] == ["ruff check .", "ruff format --check ."]
    assert len([p for p in programs if p.startswith("mypy --cache-dir")]) == 1
    assert "python -m pytest -n 2 --dist worksteal --family-times -k masks" in programs


@pytest.mark.parametrize("program", ["mypy", "pytest"])
def test_run_fails_for_types_and_for_tests(ci, program):
    fails = {"mypy": "--cache-dir", "pytest": "-m pytest"}[program]
    status, _, ran = ci("run", fails=fails)
    assert status == 1 and [line for line in ran if "pytest" in line] and [line for line in ran if "mypy" in line]


def test_run_stops_at_what_fails(ci):
    status, _, ran = ci("run", fails="format --check")
    assert status == 1 and not [line for line in ran if "pytest" in line]


def test_full_runs_every_step_and_says_what_is_skipped(ci):
    status, output, ran = ci("full")
    assert status == 0, output
    assert all(f"| {step} | ok |" in output for step in ("run", "benchmarks", "attack", "mutants"))
    for command in (
        "pytest -n 2 --dist worksteal --family-times -r s",
        "benchmarks/smoke.py",
        "benchmarks/attack.py",
        "benchmarks/mutants.py",
    ):
        line = next(line for line in ran if command in line)
        assert "ZOO_FULL=1, ZOO_HYPOTHESIS_FACTOR=20" in line
    assert any("pip install --quiet --editable .[notebooks,release]" in line for line in ran)
    browsers = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    assert ("skipped: pages in a browser, because" in output) == (not any(map(shutil.which, browsers)))


def test_full_goes_through_all_steps_after_one_that_fails(ci):
    status, output, ran = ci("full", fails="smoke.py")
    assert status == 1 and "| benchmarks | FAILED |" in output and "| mutants | ok |" in output
    assert any("mutants.py" in line for line in ran)


def test_full_runs_the_steps_that_are_named(ci):
    status, output, ran = ci("full", "mutants")
    assert status == 0 and "| mutants | ok |" in output and not any("attack.py" in line for line in ran)
    status, output, ran = ci("full", "mutants", "everything")
    assert status == 2 and "there is no step everything" in output and not any("mutants.py" in line for line in ran)


def test_the_environment_is_made_in_one_place():
    for name in ("run", "full"):
        text = (ROOT / ".ci" / name).read_text()
        assert '. "$(dirname "$0")/env.sh"' in text and "venv" not in text
