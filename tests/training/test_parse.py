"""The front: words into typed settings, and errors that say how to mend."""

import importlib
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from zoo.training.config import ImageSettings
from zoo.training.parse import (
    SettingsError,
    make_settings,
    merge,
    parse,
    read_command_line,
    read_yaml,
    resolve,
    shortest,
)
from zoo.training.recipes.config import RecallSettings
from zoo.training.recipes.image_text_config import VQASettings
from zoo.training.run_dir import differences
from zoo.utils.options import as_dict, build, flatten, options

ROOT = Path(__file__).parents[2]


def settings(*words: str, **more: object) -> ImageSettings:
    return parse(ImageSettings, words, **more)


@pytest.mark.parametrize(("key", "path"), [
    ("lr", "optim.lr"), ("trainer.epochs", "trainer.epochs"), ("augment.flip", "data.augment.flip"),
    ("data", "data.name"), ("model", "model.name"), ("attention", "model.overrides.attention"),
    ("model.eps", "model.overrides.eps"), ("model.anything", "model.overrides.anything"),
    ("encoder.attention", "model.overrides.encoder.attention"), ("run_dir", "run_dir"), ("data_dir", "data.data_dir"),
])  # fmt: skip
def test_keys(key: str, path: str) -> None:
    assert resolve(key, ImageSettings) == path


@pytest.mark.parametrize(("word", "says"), [
    ("name=x", ["ambiguous", "model.name", "data.name"]),
    ("lrr=1", ["lrr", "did you mean 'lr'"]),
    ("learning_rate=1", ["did you mean 'lr'"]),
    ("embed_dim=64", ["did you mean 'width'"]),
    ("decoder_depth=2", ["did you mean 'model.decoder_depth'"]),
    ("trainer.lr=1", ["did you mean 'optim.lr'"]),
    ("augment=1", ["section", "data.augment.flip"]),
    ("epochs=many", ["trainer.epochs=many", "int or null"]),
    ("epochs=1.5", ["trainer.epochs=1.5", "int"]),
    ("epochs=0", ["epochs=0", "at least 1"]),
    ("freeze=[yes]", ["optim.freeze=[yes]", "list[str]", "['yes', '7']"]),
    ("precision=fp64", ["trainer.precision=fp64", "auto or fp32 or bf16 or fp16"]),
    ("lr=0", ["lr=0.0", "more than 0"]),
    ("flip=2", ["flip=2.0", "0 to 1"]),
    ("batch_size=0", ["batch_size=0"]),
    ("train", ["key=value", "--help"]),
    ("hardware=gpu9", ["hardware=gpu9", "cpu", "did you mean 'gpu'"]),
])  # fmt: skip
def test_bad_words(word: str, says: list[str]) -> None:
    with pytest.raises(SettingsError) as error:
        settings(word, configs=ROOT / "configs", recipe="vit_cifar")
    for text in says:
        assert text in str(error.value)


@pytest.mark.parametrize(("path", "key"), [
    ("optim.lr", "lr"), ("data.name", "data"), ("model.overrides.width", "width"), ("model.overrides.odd", "model.odd"),
    ("seed", "seed"),
])  # fmt: skip
def test_the_shortest_key(path: str, key: str) -> None:
    assert shortest(path, ImageSettings) == key and resolve(key, ImageSettings) == path


def test_the_shortest_key_of_a_tower() -> None:
    assert shortest("model.overrides.encoder.attention", ImageSettings) == "encoder.attention"


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(SettingsError, match="twice"):
        settings("lr=1", "optim.lr=2")


def test_values_and_overrides() -> None:
    s = settings("lr=3e-4", "attention={kind: local, window: 9}", "image_size=[32, 48]", "encoder.depth=2",
                 "betas=[0.9, 0.95]", "freeze=[patches]", "--seed=7", "max_minutes=2",
                 "mixer=my_file:Mine")  # fmt: skip
    assert (s.optim.lr, s.optim.betas, s.optim.freeze, s.seed) == (3e-4, (0.9, 0.95), ["patches"], 7)
    assert s.model.overrides == {
        "attention": {"kind": "local", "window": 9},
        "image_size": [32, 48],
        "encoder.depth": 2,
        "mixer": "my_file:Mine",
    }


def test_steps_on_the_command_line_drop_the_epochs_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("trainer: {epochs: 9}\nmodel: {name: m, depth: 3}\n")
    s = settings("steps=5", configs=tmp_path, recipe="x")
    assert (s.trainer.epochs, s.trainer.steps, s.model.overrides) == (None, 5, {"depth": 3})
    with pytest.raises(SettingsError, match="exclude"):
        settings("steps=5", "epochs=2", configs=tmp_path, recipe="x")


def test_layers_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "hardware").mkdir()
    (tmp_path / "x.yaml").write_text("optim: {lr: 1.0, weight_decay: 1.0, eps: 1.0}\n")
    (tmp_path / "hardware" / "cpu.yaml").write_text("optim: {lr: 2.0, weight_decay: 2.0}\n")
    s = settings("lr=3", configs=tmp_path, recipe="x", hardware="cpu")
    assert (s.optim.lr, s.optim.weight_decay, s.optim.eps) == (3.0, 2.0, 1.0)
    (tmp_path / "more.yaml").write_text("optim: {weight_decay: 4.0}\n")
    s = settings(f"config={tmp_path / 'more.yaml'}", configs=tmp_path, recipe="x", hardware="cpu")
    assert (s.optim.lr, s.optim.weight_decay) == (2.0, 4.0)


@pytest.mark.parametrize(("text", "says"), [
    ("trainer: {epoch: 3}", "did you mean 'trainer.epochs'"), ("[1, 2]", "mapping"), ("a: [", "not valid YAML"),
    ("\udc80", "not valid YAML"),
])  # fmt: skip
def test_bad_yaml_names_the_file(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(SettingsError, match=r"x\.yaml") as error:
        read_yaml(file, ImageSettings)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_yaml_file_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    for file, says in ((tmp_path / "missing.yaml", "No such file"), (tmp_path, "directory")):
        with pytest.raises(SettingsError, match=says) as error:
            read_yaml(file, ImageSettings)
        assert str(error.value).count(str(file)) == 1


@pytest.mark.parametrize("word", ["data=", "model.source=", "lr=", "config=", "hardware="])
def test_an_option_without_a_value_is_refused(word: str) -> None:
    with pytest.raises(SettingsError, match="has no value"):
        read_command_line([word], ImageSettings)


def test_a_wrong_value_is_an_error_before_a_dataset_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("zoo.data.sources.auto.download", lambda name: pytest.fail("it looked for the dataset"))
    with pytest.raises(SettingsError, match="expected float"):
        settings("data=auto", "lr=high")


SETTINGS_FILES = [file for file in sorted((ROOT / "configs").rglob("*.yaml")) if file.parent.name != "sweeps"]


@pytest.mark.parametrize("file", SETTINGS_FILES, ids=lambda f: f.name)
def test_every_yaml_of_the_repository(file: Path) -> None:
    cls = settings_of(file)
    paths = [option.path for option in options(cls)]
    made = make_settings(cls, merge([read_yaml(file, cls)]))
    for path, value in flatten(yaml.safe_load(file.read_text())).items():
        if path in paths:
            assert flatten(as_dict(made))[path] == (pytest.approx(float(value)) if _number(value) else value)
        else:
            assert made.model.overrides[path.removeprefix("model.")] == value


def settings_of(file: Path) -> type:
    """The settings class of the recipe that a YAML file belongs to."""
    script = ROOT / "recipes" / f"{file.stem.partition('.')[0]}.py"
    if not script.exists():
        return ImageSettings
    found = re.findall(r"from (zoo\.training\.[\w.]*config) import (\w+)", script.read_text())
    assert found, script
    return getattr(importlib.import_module(found[0][0]), found[0][1])


def _number(value: object) -> bool:
    try:
        return not isinstance(value, bool) and float(value) is not None  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


@pytest.mark.parametrize(("cls", "text", "path"), [
    (ImageSettings, "model: {attention: {kind: local, window: 9}}", "attention"),
    (ImageSettings, "model: {overrides: {attention: {kind: local, window: 9}}}", "attention"),
    (VQASettings, "image: {depth: 3, attention: {kind: local, window: 9}}", "image.attention"),
])  # fmt: skip
def test_kinds_with_options_in_a_file(tmp_path: Path, cls: type, text: str, path: str) -> None:
    file = tmp_path / "kinds.yaml"
    file.write_text(text)
    made = make_settings(cls, merge([read_yaml(file, cls)]))
    assert made.model.overrides[path] == {"kind": "local", "window": 9}


def test_a_mechanism_with_options_is_one_value(tmp_path: Path) -> None:
    file = tmp_path / "recall.yaml"
    file.write_text("mechanism: {kind: local, window: 9}")
    settings = make_settings(RecallSettings, merge([read_yaml(file, RecallSettings)]))
    assert flatten(as_dict(settings))["mechanism"] == {"kind": "local", "window": 9}


def test_settings_survive_their_yaml() -> None:
    s = settings("lr=1e-3", "attention=[softmax, local]", "betas=[0.5, 0.6]", "mixup=0.2")
    values = yaml.safe_load(yaml.safe_dump(as_dict(s)))
    assert build(ImageSettings, values) == s
    assert differences(values, as_dict(s)) == {}


def test_defaults_that_decide_results() -> None:
    s = settings()
    assert (s.optim.betas, s.optim.eps, s.optim.layer_decay, s.optim.freeze) == ((0.9, 0.999), 1e-8, 1.0, [])
    assert (s.trainer.gradient_clip_val, s.trainer.accumulate_grad_batches, s.trainer.ema) == (1.0, 1, 0.0)
    assert (s.seed, s.resume, s.task.label_smoothing) == (0, "auto", 0.0)


def test_every_option_is_described() -> None:
    assert [o.path for o in options(ImageSettings) if len(o.meaning) < 10] == []


def test_help_is_fast_and_brings_no_torch() -> None:
    code = ("import sys; from zoo.training.main import main; from zoo.training.config import ImageSettings\n"
            "def train(run): pass\n"
            "train.__code__ = train.__code__.replace(co_filename=sys.argv[1])\n"
            "status = main(train, ImageSettings, ['--help'])\n"
            "heavy = {'torch', 'lightning', 'numpy', 'torchvision'} & set(sys.modules)\n"
            "assert not heavy, heavy\n"
            "sys.exit(status)")  # fmt: skip
    start = time.process_time(), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, str(ROOT / "recipes" / "vit_cifar.py")],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "trainer.epochs" in done.stdout and "data.augment.mixup" in done.stdout
    assert time.perf_counter() - start[1] < 5  # a second on an idle machine; this one is shared


def test_words_tell_help_apart() -> None:
    assert read_command_line(["lr=1", "--help"], ImageSettings).help
