"""The table "To add ... touch exactly these files" of CONTRIBUTING.md, done in a copy of the tree.

What is added lies in tests/additions: NomicBERT as a family, soft-capped softmax (Gemma 2) as an attention kind, time
series as a modality.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
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
        env |= {"PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"} | variables
        done = subprocess.run(
            [sys.executable, *map(str, words)], cwd=self.root, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{words}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def passed(self, files: Sequence[str], pattern: str, **variables: str) -> Counter[str]:
        """{file: number of its tests that match and pass, those of .ci/full too}; none fails or is skipped."""
        report, variables = self.root.parent / "report.xml", {"ZOO_FULL": "1"} | variables
        self.run("-m", "pytest", *files, "-k", pattern, "-p", "no:cacheprovider", f"--junitxml={report}", **variables)
        cases = list(ET.parse(report).getroot().iter("testcase"))
        assert not [case.get("name") for case in cases if len(case)], "failed or skipped"
        return Counter(case.get("classname", "").replace(".", "/") + ".py" for case in cases)

    def write_tables(self) -> list[str]:
        """Write the tables of the documentation; returns the rows that came. No other row changes."""
        self.run("tests/tables.py", "--write")
        new = self.rows()
        came = [row for row in new if row not in self.tables]
        assert [row for row in new if row not in came] == self.tables
        return came


@pytest.fixture
def tree(tmp_path: Path) -> Copy:
    tree = Copy(tmp_path / "tree")
    printed = tree.run("-c", "import zoo; print(zoo.__file__)")
    assert Path(printed.strip()) == tree.root / "zoo" / "__init__.py", "the copy has to win over the installed package"
    return tree


def documented(what: str) -> str:
    """The files that CONTRIBUTING.md names for an addition."""
    found = re.search(rf"^\| {what}[^|]*\|(.*)\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert found, f"CONTRIBUTING.md does not say how to add {what}"
    return found[1]


def test_a_size_is_one_line(tree: Copy, tmp_path: Path) -> None:
    assert all(word in documented("a size") for word in ("VARIANTS", "model.py"))
    name, file = "vit_nano_patch8_32", tree.root / "zoo/models/vit/model.py"
    text, head = file.read_text(), "VARIANTS: dict[str, dict[str, Any]] = {\n"
    assert text.count(head) == 1
    line = f'    "{name}": dict(image_size=32, patch_size=8, width=64, depth=2, heads=2),\n'
    file.write_text(text.replace(head, head + line))
    assert tree.changed() == {"zoo/models/vit/model.py"}

    tree.run("tests/additions/use_a_size.py", name, tree.root, tmp_path / "model")
    assert tree.changed() == {"zoo/models/vit/model.py"}
    (row,) = tree.write_tables()
    assert row.startswith(f"| `{name}` |") and "32 px, patch 8" in row
    counts = tree.passed([CONTRACT], f"(snapshot and vit) or {name}", ZOO_WRITE_SNAPSHOTS="1")
    assert counts[CONTRACT] == 2  # the keys of the family, and the variant on meta
    assert tree.changed() == {"zoo/models/vit/model.py", MODELS, "tests/snapshots/vit.json"}


def test_a_family_is_one_folder(tree: Copy) -> None:
    assert all(word in documented("a model family") for word in ("zoo/models/<family>/", "model.py", "mapping.py"))
    name, names = "nomic_bert", "tests/models/test_names.py"
    shutil.copytree(ADDITIONS / name, tree.root / "zoo/models" / name, ignore=shutil.ignore_patterns("__pycache__"))
    folder = {f"zoo/models/{name}/{file}.py" for file in ("__init__", "model", "mapping")}
    assert tree.changed() == folder

    assert tree.passed([CONTRACT], f"snapshot and {name}", ZOO_WRITE_SNAPSHOTS="1")[CONTRACT] == 1
    others = "unique_and_listed or our_names or of_other_libraries"
    counts = tree.passed([CONTRACT, PARITY, names], f"{name} or {others}")
    assert counts[CONTRACT] >= 60 and counts[PARITY] == 1 and counts[names] >= 10, counts
    came = tree.write_tables()
    assert [row.split("`")[1] for row in came] == ["nomic_bert_tiny", "nomic_bert_base", "nomic_embed_text"]
    assert tree.changed() == folder | {MODELS, f"tests/snapshots/{name}.json"}


def test_an_attention_kind_is_one_decorated_class(tree: Copy, tmp_path: Path) -> None:
    assert all(word in documented("an attention kind") for word in ("a class in", "zoo/nn/", "_attention.py"))
    name, conformance = "softcap", "tests/nn/test_conformance.py"
    file = f"zoo/nn/{name}_attention.py"
    shutil.copy(ADDITIONS / f"{name}_attention.py", tree.root / file)

    tree.run("tests/additions/use_a_kind.py", name, "softcpa", tree.root, tmp_path / "model")
    assert tree.changed() == {file}
    (row,) = tree.write_tables()
    assert row.startswith(f"| `{name}` | attention | yes | yes |") and "FAILS" not in row
    counts = tree.passed([CONTRACT, conformance], name)
    assert counts[CONTRACT] >= 30 and counts[conformance] == 1, counts
    assert tree.changed() == {file, KINDS}


def test_a_modality_is_three_packages_and_a_record(tree: Copy, tmp_path: Path) -> None:
    row = documented("a modality")
    assert all(place in row for place in ("zoo/nn/frontends/", "zoo/preprocessing/", "zoo/data/", "`MODALITIES`"))
    added, name = ADDITIONS / "time_series", "time_series"
    places = {
        "front_end": f"zoo/nn/frontends/{name}.py",
        "processor": f"zoo/preprocessing/{name}.py",
        "data": f"zoo/data/{name}/folder.py",
        "model": "zoo/models/tst/model.py",
    }
    for part, place in places.items():
        (tree.root / place).parent.mkdir(exist_ok=True)
        shutil.copy(added / f"{part}.py", tree.root / place)
    packages = {f"zoo/data/{name}/__init__.py", "zoo/models/tst/__init__.py"}
    for package in packages:
        (tree.root / package).touch()
    record, module = (added / "record.py").read_text(), tree.root / "zoo/preprocessing/modality.py"
    entry = record.partition("ENTRY = {\n")[2].removesuffix("}\n")
    text = module.read_text()
    for anchor, line in (
        ("from zoo.preprocessing.image", f"from zoo.preprocessing import {name}\n"),
        ("}  # fmt: skip\n", entry),
    ):
        assert text.count(anchor) == 1 and line
        text = text.replace(anchor, line + anchor)
    module.write_text(text)
    paths = {*places.values(), *packages, "zoo/preprocessing/modality.py"}
    assert tree.changed() == paths

    tree.run("tests/additions/use_a_modality.py", tree.root, tmp_path / "used")
    assert tree.changed() == paths
    assert tree.passed([CONTRACT], "snapshot and tst", ZOO_WRITE_SNAPSHOTS="1")[CONTRACT] == 1
    assert tree.passed([CONTRACT], "tst")[CONTRACT] >= 30
    came = tree.write_tables()
    assert [row.split("|")[3].strip() for row in came] == [
        "64 steps of 1 channels, patch 8", "512 steps of 1 channels, patch 8"
    ]  # fmt: skip
    assert tree.changed() == paths | {MODELS, "tests/snapshots/tst.json"}
