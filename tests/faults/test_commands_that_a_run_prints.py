"""The commands that a run prints can be pasted into a shell, whatever its folder and its texts are named."""

import re
import shlex
from pathlib import Path

import pytest
from recipe_calls import caller

from zoo.cli.main import main
from zoo.training.config import ImageSettings
from zoo.training.recipes.config import FinetuneSettings, GPTSettings

call = caller({"vit_cifar": ImageSettings, "finetune_text": FinetuneSettings, "gpt_text": GPTSettings})
QUIET = ("accelerator=cpu", "precision=fp32", "progress=false", "batch_size=4", "steps=1", "depth=1",
         "width=16", "heads=2")  # fmt: skip
TEXT = 'it\'s $5, "cheap"; a & b'


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, ...]]:
    for name in ("TRAIN", "TEST"):
        monkeypatch.setattr(f"zoo.data.synthetic.shapes.{name}", 20)
    cell = TEXT.replace('"', '""')
    (tmp_path / "texts.csv").write_text("text,label\n" + f'"{cell}",a\n"{cell}",b\n' * 20)
    (tmp_path / "text.txt").write_text(TEXT.replace(" ", "") + " and more\n" * 200)
    return {"vit_cifar": ("data=synthetic",), "finetune_text": (f"data={tmp_path / 'texts.csv'}",),
            "gpt_text": (f"data={tmp_path / 'text.txt'}", "length=0", "model.max_length=64")}  # fmt: skip


@pytest.mark.parametrize("recipe", ["vit_cifar", "finetune_text", "gpt_text"])
def test_the_command_that_uses_the_model(
    recipe: str, options: dict[str, tuple[str, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(recipe, tmp_path / "my runs; new", *QUIET, *options[recipe]) == 0
    printed = re.search(r"^use it +(.*)$", capsys.readouterr().out, re.MULTILINE)
    assert printed is not None
    program, *words = shlex.split(printed[1])
    assert program == "zoo" and words[1] == str(tmp_path / "my runs; new" / "model")
    assert recipe != "finetune_text" or words[2] == TEXT
    assert main(words) == 0
