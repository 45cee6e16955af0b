"""The command `zoo`: what it prints, what it exits with, and that a mistake is one line."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import zoo
from zoo.cli.main import main, settings
from zoo.utils.console import format_count


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from zoo.preprocessing.image import ImageProcessor

    model = zoo.create_model("vit_cifar", seed=0, depth=2)
    model.preprocess = ImageProcessor(size=(32, 32))
    model.labels = [f"class {i}" for i in range(10)]
    return zoo.save(model, tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def picture(tmp_path: Path) -> str:
    Image.new("RGB", (40, 40), (200, 30, 30)).save(tmp_path / "p.png")
    return str(tmp_path / "p.png")


def failing(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command line that is refused; returns its one line."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_help_brings_no_torch() -> None:
    script = "import sys; from zoo.cli.main import main\ntry: main(['--help'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "doctor" in done.stdout
    assert not {"torch", "rich", "yaml", "numpy"} & set(done.stdout.splitlines()[-1].split())


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    everything = capsys.readouterr().out
    assert all(name in everything for name in zoo.list_models())
    assert main(["list", "deit3_*_384", "--pretrained"]) == 0
    some = capsys.readouterr().out
    assert "timm/deit3_base_patch16_384.fb_in22k_ft_in1k" in some and "vit_" not in some
    assert main(["list", "dinov2", "--modality", "vision"]) == 0
    assert "vit_giant_patch14_reg4_dinov2" in capsys.readouterr().out


def test_list_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'vit_cifar'" in failing(capsys, "list", "vit_cifra")
    assert "known: " in failing(capsys, "list", "--modality", "smell")


def test_info_of_a_name_with_overrides_before_and_after_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["info", "vit_base_patch16_224", "depth=2", "--batch-size", "8", "attention={kind: local, window: 9}"])
        == 0
    )
    out = capsys.readouterr().out
    for said in ("batch of 8", "[8, 3, 224, 224]", "local", "hf-hub:timm/vit_base_patch16_224"):
        assert said in out
    assert f"15.7 M ({86_567_656 - 10 * 7_087_872:,})" in out


def test_info_of_a_folder(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["info", str(folder), "num_classes=3"]) == 0
    out = capsys.readouterr().out
    assert "(zoo)" in out and "class 0, class 1" in out and "[1, 3, 32, 32]" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["vit_bas_patch16_224"], "did you mean 'vit_base_patch16_224'"),
        (["vit_cifar", "embed_dim=3"], "did you mean 'width'"),
        (["vit_cifar", "attention=performr"], "did you mean 'performer'"),
        (["vit_cifar", "depth"], "'depth': expected key=value"),
        (["vit_cifar", "depth=2", "depth=3"], "given twice"),
        (["vit_cifar", "depth=[2"], "not readable YAML"),
        (["vit_cifar", "--batch-size", "0"], "batch=0"),
        (["no/such/folder"], "no/such/folder"),
    ],
)
def test_info_refuses(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert said in failing(capsys, "info", *words)


def test_predict(capsys: pytest.CaptureFixture[str], folder: Path, picture: str) -> None:
    assert main(["predict", str(folder), picture, "--top-k", "2", picture]) == 0
    out = capsys.readouterr().out
    best = zoo.predict(zoo.load(folder), picture, top_k=2)
    assert out.count("%") == 4 and out.count(picture) == 2
    assert f"{best[0][0]}" in out and f"{best[0][1]:.1%}" in out


def test_predict_refuses(capsys: pytest.CaptureFixture[str], folder: Path, picture: str, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    assert "there is no image file nothing.png" in failing(capsys, "predict", str(folder), picture, "nothing.png")
    assert "text.png" in failing(capsys, "predict", str(folder), str(tmp_path / "text.png"))
    assert "at least one image" in failing(capsys, "predict", str(folder))
    assert "--pair is two texts, and the model takes pixel_values" in failing(
        capsys, "predict", str(folder), "--pair", "a", "b"
    )
    assert "--top-k 0" in failing(capsys, "predict", str(folder), picture, "--top-k", "0")
    assert str(tmp_path / "gone") in failing(capsys, "predict", str(tmp_path / "gone"), picture)


def test_export_and_verify(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    assert main(["export", str(folder), str(tmp_path / "theirs"), "--format", "transformers"]) == 0
    assert "theirs is written for transformers" in capsys.readouterr().out
    assert (tmp_path / "theirs" / "preprocessor_config.json").is_file()
    assert main(["verify", str(folder)]) == 0
    assert "golden outputs" in capsys.readouterr().out
    assert "did you mean 'timm'" in failing(capsys, "export", str(folder), str(tmp_path / "x"), "--format", "tim")


def test_verify_exits_with_1_where_the_numbers_differ(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    before = file.read_bytes()
    weights = load_file(file)
    save_file({name: w + 0.1 if w.ndim == 1 else w for name, w in weights.items()}, file)
    try:
        assert main(["verify", str(folder)]) == 1
    finally:
        file.write_bytes(before)
    assert "DIFFERENT" in capsys.readouterr().out


def test_check(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    body = "import zoo\nclass Sigmoid(zoo.nn.Core):\n  def weights(self, q, k, mask=None, bias=None):\n    return "
    (tmp_path / "good_core.py").write_text(body + "self.scores(q, k, mask, bias).sigmoid()\n")
    (tmp_path / "leaky_core.py").write_text(body + "self.scores(q, k).softmax(-1)\n")
    assert main(["check", "good_core:Sigmoid"]) == 0
    assert "ok" in capsys.readouterr().out
    assert main(["check", "leaky_core:Sigmoid"]) == 1
    assert "WRONG" in capsys.readouterr().out
    assert "no class 'Sigmod'; did you mean 'Sigmoid'" in failing(capsys, "check", "good_core:Sigmod")


def test_compare_hands_its_words_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from zoo.training.sweep.compare import compare

    seen = []
    assert callable(compare)

    class Found:
        ok = True

        def __str__(self) -> str:
            return "a table"

    monkeypatch.setattr(
        sys.modules["zoo.training.sweep.compare"], "compare", lambda *given: seen.append(given) or Found()
    )
    assert main(["compare", "vit_cifar", "attention=softmax,performer", "seeds=2"]) == 0
    assert seen == [("vit_cifar", ["attention=softmax,performer", "seeds=2"])]
    assert "a table" in capsys.readouterr().out


def test_compare_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert "several values" in failing(capsys, "compare", "vit_cifar", "attention=softmax")


def test_each_wrong_value_of_a_comparison_has_its_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("zoo.training.sweep.compare")
    monkeypatch.setattr(module, "errors_of", lambda _, options: ["", "no  such\nvalue", "too large"])
    assert main(["compare", "vit_cifar", "depth=1,x,99", "seeds=1", "out=nowhere"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[1:] == ["error: depth=x: no such value", "error: depth=99: too large"]


def test_traceback_where_it_is_asked_for() -> None:
    with pytest.raises(ValueError, match="did you mean"):
        main(["info", "vit_cifr", "--traceback"])


def test_a_broken_package_points_to_the_doctor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zoo.checkpoints.verify", None)
    assert "zoo doctor" in failing(capsys, "verify", "x")


@pytest.mark.parametrize("words", [[], ["lst"], ["list", "a", "b"], ["info", "vit_cifar", "--bach", "3"], ["info"]])
def test_a_wrong_command_line_exits_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and "usage: zoo" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"zoo {zoo.__version__}\n"


def test_scaled() -> None:
    given = (0, 999, 1000, 999_600, 86_567_656, 2 * 10**13)
    assert [format_count(number) for number in given] == ["0 ", "999 ", "1 k", "1 M", "86.6 M", "20 T"]


def test_settings_are_yaml() -> None:
    words = ["a=1", "b=1e-3", "c=[2, 3]", "d={kind: local}", "e=null", "f=x=y"]
    assert settings(words) == {"a": 1, "b": 0.001, "c": [2, 3], "d": {"kind": "local"}, "e": None, "f": "x=y"}


def test_the_console_script_is_this_function() -> None:
    import importlib.metadata
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    script = importlib.metadata.EntryPoint("zoo", project["scripts"]["zoo"], "console_scripts")
    assert script.load() is main


def test_info_compares_kinds_at_a_length(capsys):
    assert main(["info", "gpt_nano", "--length", "256", "depth=1", "--attention", "linear"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if "256 tokens" in line)
    rows = {line.split()[0]: line for line in lines[start:] if line.strip()}
    assert "this model" in rows["linear"] and "this model" not in rows["softmax"] and "performer" in rows
    assert "393 kB" in rows["softmax"] and "393 kB" not in rows["linear"]  # one layer, keys and values
    assert main(["info", "t5_nano", "--length", "32", "depth=1", "decoder_depth=1"]) == 0
    assert "refused: linear attention has no scores" in " ".join(capsys.readouterr().out.split())
    assert main(["info", "gpt_nano", "attention=linear", "--attention", "linear"]) == 2
    assert "attention is given twice" in capsys.readouterr().err
