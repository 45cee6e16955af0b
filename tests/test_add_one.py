"""The table "To add ... touch exactly these files" of CONTRIBUTING.md, done in a copy of the tree.

What is added lies in tests/additions: NomicBERT as a family, soft-capped softmax (Gemma 2) as an attention kind, time
series as a modality.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
ADDITIONS = Path(__file__).parent / "additions"
PARTS = ("zoo", "tests", "recipes", "configs", "docs")
FILES = ("pyproject.toml", "README.md", "CONTRIBUTING.md")
MODELS, KINDS = "docs/reference/models.md", "docs/reference/attention_kinds.md"
CONTRACT, PARITY = "tests/models/test_contract.py", "tests/models/test_parity.py"
NAMES, CONFORMANCE = "tests/models/test_names.py", "tests/nn/test_conformance.py"
SIZE, FAMILY, KIND = "vit_nano_patch8_32", "nomic_bert", "softcap"
ADDED = (SIZE, FAMILY, KIND, "tst")
RUN_ALL = """
import json, runpy, sys
import zoo
print(zoo.__file__)
sys.path.insert(0, "tests")
for words in map(json.loads, sys.argv[1:]):
    sys.argv = words
    runpy.run_path(f"tests/{words[0]}", run_name="__main__")
"""


class Copy:
    """A copy of the tree in which commands run with its own package."""

    def __init__(self, root: Path) -> None:
        self.root = root
        skip = shutil.ignore_patterns("__pycache__", ".*", "format1")
        for part in PARTS:
            shutil.copytree(ROOT / part, root / part, ignore=skip)
        for file in FILES:
            shutil.copy(ROOT / file, root / file)
        self.before = self.hashes()
        self.tables = self.rows()

    def hashes(self) -> dict[str, str]:
        """{path: hash of its bytes} of every file."""
        files = (path for path in self.root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {str(f.relative_to(self.root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    def changed(self) -> set[str]:
        """Paths that came, went or changed since the copy was made."""
        return {path for path, _ in self.hashes().items() ^ self.before.items()}

    def rows(self) -> list[str]:
        return [line for page in (MODELS, KINDS) for line in (self.root / page).read_text().splitlines()]

    def run(self, *words: str | Path, **variables: str) -> str:
        """Run `python words` in the copy, offline; returns what it prints."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        env |= {"PYTHONPATH": str(self.root), "HF_HUB_OFFLINE": "1"} | variables
        done = subprocess.run(
            [sys.executable, *map(str, words)], cwd=self.root, env=env, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"{words}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def passed(self, files: Sequence[str], pattern: str, **variables: str) -> list[str]:
        """The tests in `files`, but those marked `full`, that match and pass: `file::test[parameters]`; none fails or
        is skipped."""
        report = self.root.parent / "report.xml"
        self.run(
            "-m",
            "pytest",
            *files,
            "-k",
            pattern,
            "-m",
            "not full",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            **variables,
        )
        cases = list(ET.parse(report).getroot().iter("testcase"))
        assert not [case.get("name") for case in cases if len(case)], "failed or skipped"
        return [f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}" for case in cases]

    def new_rows(self) -> list[str]:
        """The rows that came to the tables of the documentation. No other row differs from those of the repository."""
        new = self.rows()
        came = [row for row in new if row not in self.tables]
        assert [row for row in new if row not in came] == self.tables, "run: python tests/tables.py --write"
        return came


def documented(what: str, *words: str) -> None:
    """CONTRIBUTING.md names the files of an addition: its row has all of the words."""
    found = re.search(rf"^\| {what}[^|]*\|(.*)\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert found and all(word in found[1] for word in words), f"CONTRIBUTING.md does not say how to add {what}"


def insert(file: Path, lines: dict[str, str]) -> None:
    """Write lines before the line that each stands for: {the start of a line that is there once: lines}."""
    text = file.read_text()
    for anchor, line in lines.items():
        assert text.count(anchor) == 1 and line
        text = text.replace(anchor, line + anchor)
    file.write_text(text)


def add_size(root: Path) -> set[str]:
    """One line in a table. Returns the files that change, as the other additions do."""
    documented("a size", "VARIANTS", "model.py")
    file = "zoo/models/vit/model.py"
    text, head = (root / file).read_text(), "VARIANTS: dict[str, dict[str, Any]] = {\n"
    assert text.count(head) == 1
    line = f'    "{SIZE}": dict(image_size=32, patch_size=8, width=64, depth=2, heads=2),\n'
    (root / file).write_text(text.replace(head, head + line))
    return {file}


def add_family(root: Path) -> set[str]:
    """One folder."""
    documented("a model family", "zoo/models/<family>/", "model.py", "mapping.py")
    shutil.copytree(ADDITIONS / FAMILY, root / "zoo/models" / FAMILY, ignore=shutil.ignore_patterns("__pycache__"))
    return {f"zoo/models/{FAMILY}/{file}.py" for file in ("__init__", "model", "mapping")}


def add_kind(root: Path) -> set[str]:
    """One decorated class."""
    documented("an attention kind", "a class in", "zoo/nn/", "_attention.py")
    file = f"zoo/nn/{KIND}_attention.py"
    shutil.copy(ADDITIONS / f"{KIND}_attention.py", root / file)
    return {file}


def add_modality(root: Path) -> set[str]:
    """Three packages and a record."""
    documented("a modality", "zoo/nn/frontends/", "zoo/preprocessing/", "zoo/data/", "`MODALITIES`")
    added, name = ADDITIONS / "time_series", "time_series"
    places = {
        "front_end": f"zoo/nn/frontends/{name}.py",
        "processor": f"zoo/preprocessing/{name}.py",
        "data": f"zoo/data/{name}/folder.py",
        "model": "zoo/models/tst/model.py",
    }
    for part, place in places.items():
        (root / place).parent.mkdir(exist_ok=True)
        shutil.copy(added / f"{part}.py", root / place)
    packages = {f"zoo/data/{name}/__init__.py", "zoo/models/tst/__init__.py"}
    for package in packages:
        (root / package).touch()
    entry = (added / "record.py").read_text().partition("ENTRY = {\n")[2].removesuffix("}\n")
    record = "zoo/preprocessing/modality.py"
    insert(
        root / record,
        {
            "from zoo.preprocessing.image": f"from zoo.preprocessing import {name}\n",
            "}  # fmt: skip\n": entry,
        },
    )
    return {*places.values(), *packages, record}


def test_each_addition_takes_the_files_that_the_table_names(tmp_path: Path) -> None:
    """All four in one copy, so that what takes seconds to start is started once."""
    tree = Copy(tmp_path / "tree")
    paths: set[str] = set()
    for add in (add_size, add_family, add_kind, add_modality):
        paths |= add(tree.root)
        assert tree.changed() == paths

    scripts = [
        ["additions/use_a_size.py", SIZE, tree.root, tmp_path / "size"],
        ["additions/use_a_kind.py", KIND, "softcpa", tree.root, tmp_path / "kind"],
        ["additions/use_a_modality.py", tree.root, tmp_path / "modality"],
        ["tables.py", "--write", "models", "kinds"],
    ]
    printed = tree.run("-c", RUN_ALL, *(json.dumps(list(map(str, words))) for words in scripts))
    package = Path(printed.splitlines()[0])
    assert package == tree.root / "zoo" / "__init__.py", "the copy has to win over the installed package"
    assert tree.changed() == paths | {MODELS, KINDS}

    names = f"{SIZE} or {FAMILY} or {KIND} or tst or (snapshot and vit)"
    others = "unique_and_listed or our_names or of_other_libraries"
    files = [CONTRACT, PARITY, NAMES, CONFORMANCE]
    passed = tree.passed(files, f"{names} or {others}", ZOO_WRITE_SNAPSHOTS="1")
    pairs = ((file, name) for file in files for name in ADDED)
    counts = {(file, name): sum(file in test and name in test for test in passed) for file, name in pairs}
    assert counts[CONTRACT, SIZE] == 1 and counts[CONFORMANCE, KIND] == 1 and counts[PARITY, FAMILY] == 1, counts
    assert counts[CONTRACT, FAMILY] >= 30 and counts[CONTRACT, KIND] >= 20 and counts[CONTRACT, "tst"] >= 20, counts
    assert sum(NAMES in test for test in passed) >= 10

    came = tree.new_rows()
    (size,) = (row for row in came if row.startswith(f"| `{SIZE}` |"))
    assert "32 px, patch 8" in size
    (kind,) = (row for row in came if row.startswith(f"| `{KIND}` |"))
    assert kind.startswith(f"| `{KIND}` | attention | yes | yes |") and "FAILS" not in kind
    rest = [row for row in came if row not in (size, kind)]
    assert [row.split("`")[1] for row in rest if FAMILY[:5] in row] == [
        "nomic_bert_tiny", "nomic_bert_base", "nomic_embed_text"
    ]  # fmt: skip
    assert [row.split("|")[3].strip() for row in rest if FAMILY[:5] not in row] == [
        "64 steps of 1 channels, patch 8", "512 steps of 1 channels, patch 8"
    ]  # fmt: skip
    snapshots = {f"tests/snapshots/{name}.json" for name in ("vit", FAMILY, "tst")}
    assert tree.changed() == paths | snapshots | {MODELS, KINDS}
