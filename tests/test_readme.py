"""The README: its snippets run, its commands parse, its tables are the code's."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import tables

import zoo

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_first_two_blocks_set_up_and_run():
    main, tests = blocks("bash")[:2]
    assert main.split("&&")[1].split() == [".venv/bin/pip", "install", "-e", "."]
    assert main.split("&&")[2].split() == [".venv/bin/python", "recipes/vit_cifar.py"]
    assert tests.split("&&")[1].split() == [".venv/bin/pip", "install", "-e", '".[test]"']
    assert tests.split("&&")[2].split() == [".venv/bin/python", "-m", "pytest"]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that has the one repository of the README, with random weights."""
    import huggingface_hub
    import timm
    from timm.models import save_for_hf

    shape = {"depth": 1}
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=3, **shape)
    save_for_hf(theirs, tmp_path, safe_serialization=True, model_args=shape)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(tmp_path))


def test_every_python_block_runs(hub, capsys):
    names: dict = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert zoo.verify("timm/vit_base_patch16_224.augreg2_in21k_ft_in1k").ok
    assert "Sigmoid" in printed and "blocks.4.mixer" in printed
    assert zoo.check(names["Sigmoid"]).ok


def test_the_own_attention_has_eight_lines():
    block = next(b for b in blocks("python") if "class Sigmoid" in b)
    assert len([line for line in block.splitlines() if line.strip()]) <= 8


def test_commands_of_recipes_are_understood():
    from zoo.training.parse import parse

    checked = 0
    for line in "".join(blocks("bash")[2:]).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["python"] and words[1].startswith("recipes/") and "--help" not in words:
            file = ROOT / words[1]
            name = re.search(r"main\(\w+, (\w+)", file.read_text())
            assert name
            settings = runpy.run_path(str(file), run_name="recipe")[name[1]]
            parse(settings, words[2:], configs=ROOT / "configs", recipe=file.stem)
            checked += 1
    assert checked >= 4


def test_files_that_are_named_exist():
    for path in set(re.findall(r"`((?:zoo|recipes|examples|benchmarks|configs|tests|data)/[\w/.]+\.\w+)`", TEXT)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", list(tables.TABLES))
def test_tables_are_those_of_the_code(name):
    assert tables.written(name) == tables.TABLES[name](), "run: python tests/tables.py --write"
