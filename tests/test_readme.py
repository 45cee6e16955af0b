"""The README: short, and the two commands come first. Its blocks run in tests/test_docs.py."""

import re

import pytest
import tables
from doc_blocks import PAGES, ROOT, blocks

README = ROOT / "README.md"


def test_it_is_short():
    assert len(README.read_text().splitlines()) < 150


def test_the_first_two_blocks_set_up_and_run():
    main, tests = (block.code for block in blocks(README)[:2])
    assert main.split("&&")[0].split() == tests.split("&&")[0].split() == ["python", "-m", "venv", ".venv"]
    assert main.split("&&")[1].split() == [".venv/bin/pip", "install", "-e", "."]
    assert main.split("&&")[2].split() == [".venv/bin/python", "recipes/vit_cifar.py"]
    assert tests.split("&&")[1].split() == [".venv/bin/pip", "install", "-e", '".[test]"']
    assert tests.split("&&")[2].split() == [".venv/bin/python", "-m", "pytest"]


def test_what_a_newcomer_needs_is_inline_code():
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", README.read_text(), flags=re.DOTALL))
    for needed in ("git clone", "ZOO_DATA_DIR", "whl/cpu"):
        assert any(needed in code for code in inline), needed
    assert all(word in README.read_text() for word in ("Python 3.11", "GB of disk", "Offline"))


def test_the_versions_of_torch_are_those_of_the_package():
    project = (ROOT / "pyproject.toml").read_text()
    for page in (README, ROOT / "docs" / "installation.md"):
        (line,) = re.findall(r"pip install ([^`\n]*) --index-url", page.read_text())
        assert all(f"{requirement}," in project for requirement in line.split()), page


def test_the_own_attention_has_eight_lines():
    block = next(block for block in blocks(README) if "class Sigmoid" in block.code)
    assert len([line for line in block.code.splitlines() if line.strip()]) <= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_are_named_exist(page):
    names = re.findall(
        r"`((?:zoo|recipes|examples|benchmarks|configs|tests|data|docs)/[\w/.]+\.\w+)`", page.read_text()
    )
    for path in set(names) - {"recipes/my_recipe.py", "configs/my_recipe.yaml"}:
        assert (ROOT / path).exists(), path


def test_links_of_the_readme_lead_to_files():
    links = re.findall(r"\]\(([^)]+)\)", README.read_text())
    assert len(links) > 20
    for link in links:
        assert (ROOT / link.partition("#")[0]).exists(), link


# The others take 20 seconds: tests/test_add_one.py makes them too, and finds each row that differs from the page.
QUICK = ("recipes", "options")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.full] * (name not in QUICK)) for name in tables.TABLES]
)
def test_tables_are_those_of_the_code(name):
    assert tables.written(name) == tables.TABLES[name][1](), "run: python tests/tables.py --write"
