"""The examples run from outside the package, and what they make can be saved and loaded. Notebooks run."""

import json
import subprocess
import sys
from pathlib import Path

import notebooks
import pytest
import torch

import zoo
from zoo.nn.registry import CORES, MIXERS

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_attention.py"
BATCH = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder that holds the file alone, and tables in which nobody registered it."""
    (tmp_path / "own_attention.py").write_text(EXAMPLE.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_attention", raising=False)
    before = dict(CORES), dict(MIXERS)
    yield tmp_path
    sys.modules.pop("own_attention", None)
    for table, kept in zip((CORES, MIXERS), before):
        table.clear()
        table.update(kept)


def test_the_script_runs_from_anywhere(tmp_path):
    run = subprocess.run([sys.executable, EXAMPLE], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "Sigmoid: ok in" in run.stdout and "TalkingHeads: ok in" in run.stdout
    assert run.stdout.count(": loss ") == 4 and not run.stderr


def test_each_class_is_ten_lines_at_most():
    bodies = EXAMPLE.read_text().split("\nclass ")[1:]
    for body in bodies:
        lines = [line for line in body.split("\n\n\n")[0].splitlines()[1:] if line.strip() and '"""' not in line]
        assert 1 <= len(lines) <= 10, body


@pytest.mark.parametrize("kind", ["own_attention:Sigmoid", "own_attention.py:TalkingHeads", str(EXAMPLE) + ":Sigmoid"])
def test_a_class_in_a_file_goes_into_a_model_by_one_argument(outside, kind):
    assert zoo.check(kind).ok
    model = zoo.create_model("vit_cifar_tiny", seed=0, depth=2, attention=kind)
    other = zoo.create_model("vit_cifar_tiny", seed=0, depth=2)
    y = model(BATCH)
    y.sum().backward()
    assert y.shape == (2, 10) and not torch.equal(y, other(BATCH))
    assert all(p.grad.isfinite().all() and p.grad.any() for name, p in model.named_parameters() if "core" in name)
    for name, value in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)  # they start equal in all they share


def test_a_saved_model_says_which_line_to_write_and_then_loads(outside):
    model = zoo.create_model("vit_cifar_tiny", seed=0, depth=2, attention="own_attention.py:TalkingHeads").eval()
    zoo.save(model, outside / "mine")
    expected = model(BATCH)
    del CORES["own_attention.py:TalkingHeads"]  # what another process would find
    del sys.modules["own_attention"]
    with pytest.raises(ValueError, match="Register it before loading: ") as refused:
        zoo.load(outside / "mine")
    assert "own_attention" not in sys.modules  # loading imports nothing
    sys.path.insert(0, str(outside))
    try:
        exec(f"import zoo\n{str(refused.value).split('Register it before loading: ')[1].strip()}".replace("; ", "\n"))
    finally:
        sys.path.remove(str(outside))
    loaded = zoo.load(outside / "mine").eval()
    assert torch.equal(loaded(BATCH), expected)
    assert loaded.load_report.initialized == []


def test_classes_of_a_script_are_called_like_its_file(outside):
    script = outside / "train.py"
    script.write_text(
        "import zoo\nfrom zoo.nn import Core\n\nclass Mine(Core):\n"
        "    def weights(self, q, k, mask=None, bias=None):\n"
        "        return self.scores(q, k, mask, bias).softmax(-1)\n\n"
        "if __name__ == '__main__':\n"
        "    zoo.save(zoo.create_model('vit_cifar_tiny', depth=1, attention=Mine), 'mine')\n"
    )
    subprocess.run([sys.executable, script], cwd=outside, check=True, timeout=120)
    with pytest.raises(ValueError, match=r"from train import Mine; zoo\.register_attention\('train:Mine', Mine\)"):
        zoo.load(outside / "mine")


# --- notebooks --------------------------------------------------------------------------------------------------------


def test_there_is_a_notebook_for_each_modality_and_for_search():
    assert {file.stem for file in notebooks.NOTEBOOKS} == {"vision", "text", "audio", "search"}


@pytest.mark.parametrize("file", notebooks.NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_are_clean_and_small(file):
    content = json.loads(file.read_text())
    assert content["nbformat"] == 4 and set(content["metadata"]) == {"kernelspec", "language_info"}
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in notebooks.cells(file, "code"):
        assert cell["outputs"] == [] and cell["execution_count"] is None
    assert content["cells"][0]["cell_type"] == "markdown" and file.stat().st_size < 20_000
    tagged = [cell for cell in notebooks.cells(file, "code") if "parameters" in cell["metadata"].get("tags", [])]
    assert [line.split(" = ")[0] for line in notebooks.source(tagged[0]).splitlines()] == ["steps", "count"]
    assert len(tagged) == 1


@pytest.mark.parametrize("file", notebooks.NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_are_valid(file):
    nbformat = pytest.importorskip("nbformat", reason="notebooks need the extra `notebooks`")
    nbformat.validate(nbformat.read(file, as_version=4))


@pytest.mark.parametrize("file", notebooks.NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_use_only_what_is_public(file):
    code = "\n".join(map(notebooks.source, notebooks.cells(file, "code")))
    assert "import zoo\n" in code and not notebooks.wrong_names(code)


@pytest.mark.parametrize(("code", "message"), [
    ("import zoo\nzoo.lode('folder')", "zoo.lode is not public"),
    ("import zoo\nzoo.data._HOME", "zoo.data._HOME is not public"),
    ("import zoo\nzoo.preprocessing.tokenizer_training.train_it([])", "train_it does not exist"),
    ("import zoo\nzoo.data.make_pairs('test', sead=0)", "make_pairs() has no argument sead"),
    ("from zoo.tasks import Classify", "zoo.tasks.Classify is not public"),
    ("import zoo.data", "write import zoo"),
])  # fmt: skip
def test_what_is_not_public_is_found(code, message):
    assert any(message in problem for problem in notebooks.wrong_names(code))


@pytest.mark.full
@pytest.mark.parametrize("file", notebooks.NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_run(file, tmp_path):
    pytest.importorskip("nbclient", reason="notebooks need the extra `notebooks`")
    done = notebooks.run(file, tmp_path)
    shown = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    plots = [output for output in shown if "image/png" in output.get("data", {})]
    printed = "".join(output.get("text", "") for output in shown if output.get("name") == "stdout")
    assert len(plots) >= 2 and ": ok, greatest difference" in printed
    assert not [output.text for output in shown if output.get("name") == "stderr"]
