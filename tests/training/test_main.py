"""The command line of a recipe: what is an error of the user, in one line, and what is a fault of the code."""

import importlib.util
from pathlib import Path

import pytest

from zoo.training.config import ImageSettings
from zoo.training.main import main

RECIPE = '''
from pathlib import Path


def train(run):
    """Fail in one of the ways that a recipe can."""
    import zoo

    way = run.config.model.name
    if way == "option":
        zoo.create_model("vit_cifar_tini")
    if way == "recipe":
        height, width, depth = (32, 32)
    if way == "module":
        zoo.create_model("vit_cifar_tiny", attention="no_such_file:Sigmoid")
    if way == "import":
        from zoo.tasks import ClassificationTsk
    if way == "type":
        len(3)
    if way == "disk":
        raise OSError(28, "No space left on device", "/cache/x")
    if way == "lost":
        Path("lost").read_text()
    run.started = True
    zoo.create_model("vit_cifar_tini")
'''


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """call(way, *words) runs a recipe that fails in some way, and gives the exit status."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "recipes" / "failing.py"
    file.parent.mkdir()
    file.write_text(RECIPE)
    (tmp_path / "configs" / "hardware").mkdir(parents=True)
    for name in ("failing", "hardware/cpu"):
        (tmp_path / "configs" / f"{name}.yaml").write_text("trainer: {accelerator: cpu}\n")
    spec = importlib.util.spec_from_file_location("failing", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda way, *words: main(
        module.train, ImageSettings, [f"model={way}", "data=synthetic", "hardware=cpu", *words]
    )


@pytest.mark.parametrize(("way", "says"), [
    ("option", "did you mean 'vit_cifar_tiny'"), ("module", "no_such_file"), ("disk", "/cache/x: No space left"),
])  # fmt: skip
def test_an_error_of_the_user_is_one_line(call, capsys: pytest.CaptureFixture, way: str, says: str) -> None:
    assert call(way) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1
    with pytest.raises((ValueError, ImportError, OSError), match=says.partition(": ")[2] or says):
        call(way, "--traceback")


@pytest.mark.parametrize(("way", "kind"), [
    ("recipe", ValueError), ("import", ImportError), ("type", TypeError), ("lost", FileNotFoundError),
    ("training", ValueError),
])  # fmt: skip
def test_a_fault_of_the_code_keeps_its_traceback(call, way: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        call(way)
