"""The documentation: the site builds without a warning, it has every public name, and its code runs."""

import importlib
import re
from collections import Counter
from pathlib import Path

import griffe
import pytest
from doc_blocks import PAGES, ROOT, SHOWN, Block, Runner, blocks, parse_commands, shortened
from doc_standins import workplace  # noqa: F401, a fixture
from tables import settings_of, trains

from zoo.training.parse import SettingsError, resolve

BLOCKS = [block for page in PAGES for block in blocks(page)]
PACKAGES = ("zoo", "zoo.nn", "zoo.tasks", "zoo.data")
NOT_RUN = 13  # blocks that are marked so; a new one needs a reason that is as good as theirs
PARSED = 12
# whose blocks take 5 to 20 seconds each, in `.ci/full` alone
LONG_PAGES = ("audio", "checkpoints", "inference", "point_clouds", "questions", "vqa")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. A dead link or anchor, a page outside the navigation and any other warning fail the build."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    config.plugins.on_shutdown()
    return folder


# --- the site -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_on_a_page_of_the_reference(package: str, site: Path) -> None:
    anchors = set(re.findall(r'id="([^"]+)"', (site / "reference" / f"{package.rpartition('.')[2]}.html").read_text()))
    names = importlib.import_module(package).__all__
    assert [name for name in names if f"{package}.{name}" not in anchors] == []


def test_every_public_name_has_a_docstring() -> None:
    """Of its own, constants included: what the reference shows is read from the source."""
    extension = griffe.load_extensions({str(ROOT / "docs" / "griffe_extensions.py"): {}})
    loader = griffe.GriffeLoader(extensions=extension, search_paths=[ROOT])
    loader.load("zoo")
    for package in PACKAGES:
        for name in importlib.import_module(package).__all__:
            docstring = loader.modules_collection[f"{package}.{name}"].docstring
            assert docstring is not None and docstring.value.strip(), f"{package}.{name} has no docstring"


def test_nothing_is_fetched_from_another_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(r"<(?:script|img|iframe)[^>]*src=[\"']?(?:https?:)?//[^\"' >]*", page.read_text())
        fetched += re.findall(
            r"<link[^>]*rel=[\"']?stylesheet[\"']?[^>]*href=[\"']?(?:https?:)?//[^ >]*", page.read_text()
        )
        assert not fetched, (page.name, fetched)


def test_links_to_other_hosts_are_well_formed() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((https?:[^)]*)\)|<(https?:[^>]*)>", page.read_text()):
            url = link[0] or link[1]
            assert re.fullmatch(r"https://[\w.-]+\.[a-z]+(/[\w./%~#?=&+-]*)?", url), f"{page.name}: {url}"


# --- the blocks ---------------------------------------------------------------------------------------------------


def test_every_fence_is_found_and_has_a_language() -> None:
    for page in PAGES:
        fences = re.findall(r"^\s*(?:```|~~~)", page.read_text(), re.MULTILINE)
        assert len(fences) == 2 * len(blocks(page)), f"{page}: a fence is indented, or is not closed"
    for block in BLOCKS:
        assert block.language in {"python", "bash", *SHOWN}, f"{block.place}: language {block.language!r}"


def test_few_blocks_are_not_run() -> None:
    marks = Counter(block.mark for block in BLOCKS)
    assert marks["not run"] <= NOT_RUN and marks["parsed"] <= PARSED, marks
    for block in BLOCKS:
        assert not block.mark or len(block.reason) > 8, f"{block.place} has no reason"


def block_of(code: str, language: str = "bash", mark: str = "") -> Block:
    return Block(ROOT / "README.md", 1, language, "", code, mark, "")


@pytest.mark.parametrize("code", ["zoo info no_such_model", "python recipes/vit_cifar.py data=nowhere", "make all"])
def test_a_command_that_fails_is_noticed(code: str, workplace: Path) -> None:  # noqa: F811
    with pytest.raises(AssertionError):
        Runner().run(block_of(code))


@pytest.mark.parametrize("code", ["zoo compare vit_cifar lrr=1,2", "python recipes/vit_cifar.py hardware=ddp9"])
def test_an_option_that_is_not_known_is_noticed(code: str, workplace: Path) -> None:  # noqa: F811
    with pytest.raises(ValueError, match=r"lrr|ddp9"):
        list(parse_commands(block_of(code)))


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "guides").glob("*.md")), ids=lambda page: page.stem)
def test_options_in_sentences_are_not_ambiguous(page: Path) -> None:
    """An option that a guide names in a sentence can be given as it stands to a recipe of that page that has it."""
    text = page.read_text()
    named = {ROOT / name for name in re.findall(r"recipes/\w+\.py", text)}
    recipes = [settings_of(file) for file in filter(trains, named)]
    for key in re.findall(r"`([a-z_.]+)=[^`(]*`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        problems = [problem_of(key, cls) for cls in recipes]
        assert "" in problems or not any("ambiguous" in problem for problem in problems), (key, problems)


def problem_of(key: str, cls: type) -> str:
    """Why a recipe does not take an option; empty if it does."""
    try:
        resolve(key, cls)
    except SettingsError as error:
        return str(error)
    return ""


def test_recipes_run_for_two_steps() -> None:
    words = shortened(["data=sst2", "trainer.epochs=50", "lr=1e-3", "batch_size=512", "hardware=gpu"])
    assert words[:2] == ["data=synthetic", "lr=1e-3"] and {"steps=2", "batch_size=8"} <= set(words)
    assert not any(word.startswith(("trainer.", "hardware")) for word in words)


def executed(page: Path) -> list[Block]:
    return [block for block in blocks(page) if not block.mark and (block.language not in SHOWN or block.title)]


@pytest.mark.parametrize("page", [
    pytest.param(page, marks=[pytest.mark.full] * (page.stem in LONG_PAGES), id=page.stem)
    for page in PAGES if executed(page)
])  # fmt: skip
def test_the_blocks_of_a_page_run(page: Path, workplace: Path) -> None:  # noqa: F811
    runner = Runner()
    for block in executed(page):
        runner.run(block)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.mark == "parsed"], ids=lambda block: block.place)
def test_the_options_of_long_commands_are_known(block: Block, workplace: Path) -> None:  # noqa: F811
    assert list(parse_commands(block))
