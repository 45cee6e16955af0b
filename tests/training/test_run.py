"""A run of a recipe: its settings are parsed once; errors before training are one line; the commands that it prints."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from tiny_run import status

from zoo.training import parse
from zoo.training.config import ImageSettings
from zoo.training.main import main
from zoo.training.parse import SettingsError
from zoo.training.recipes.config import ClipSettings
from zoo.training.run import Run

CONFIGS = Path(__file__).parents[2] / "configs"


def vit(*words: str) -> Run:
    return Run.of("vit_cifar", ["accelerator=cpu", *words], ImageSettings, CONFIGS)


def test_settings_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = [], parse.make_settings
    monkeypatch.setattr(parse, "make_settings", lambda *args: calls.append(args) or real(*args))
    run = vit("data=synthetic", "epochs=2")
    assert len(calls) == 1
    assert run.config.trainer.epochs == 2 and run.config.data.name == "synthetic"
    assert run.config.data.augment.crop == 0  # from vit_cifar.synthetic.yaml


def test_the_file_of_the_dataset_lies_under_the_options_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data: {batch_size: 48}\nmodel: {depth: 2}\n")
    run = vit("data=synthetic", f"config={file}", "width=16")
    assert run.config.data.batch_size == 48
    assert run.overrides_given == {"depth": 2, "width": 16}
    assert {"data.batch_size", "model.overrides.depth", "data.name"} <= run.given


def test_auto_becomes_the_name_of_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("zoo.data.sources.auto.download", _no_hub)
    assert vit().config.data.name == "synthetic"
    (tmp_path / "cifar10").mkdir()
    for name in ("train", "test"):
        (tmp_path / "cifar10" / f"{name}.parquet").touch()
    assert vit().config.data.name == "cifar10"


def _no_hub(name: str) -> Any:
    from zoo.data.sources.hub import HubError

    raise HubError(f"{name} is not in the local cache")


def test_a_folder_that_is_named_like_a_dataset_has_no_settings_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "synthetic").mkdir()
    assert vit(f"data={tmp_path / 'synthetic'}").config.data.augment.crop == 4


def test_the_fields_of_a_recipe_are_for_its_own_model(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("model: {name: vit_cifar_tiny, depth: 3, attention: linear}\n")
    plain = Run.of("x", ["accelerator=cpu", "hardware=cpu"], ImageSettings, _with_hardware(tmp_path))
    assert plain.config.model.overrides == {"depth": 3, "attention": "linear"} and plain.overrides_given == {}
    pretrained = Run.of("x", ["accelerator=cpu", "model.source=FOLDER", "depth=2"], ImageSettings, tmp_path)
    assert pretrained.config.model.overrides == {"depth": 2}


def _with_hardware(folder: Path) -> Path:
    (folder / "hardware").mkdir()
    (folder / "hardware" / "cpu.yaml").write_text("trainer: {accelerator: cpu}\n")
    return folder


def test_the_model_is_named_after_its_towers() -> None:
    run = Run.of("x", ["accelerator=cpu", "image.name=vit_cifar_tiny", "text.name=bert_tiny"], ClipSettings)
    assert run.model_name == "vit_cifar_tiny + bert_tiny"


def test_a_model_that_cannot_be_built_is_an_error_of_the_options() -> None:
    with pytest.raises(SettingsError, match="did you mean"):
        vit("model=vit_cifar_tinny").build_model("classify")
    model = vit("model=vit_cifar_tiny", "width=16", "depth=1", "heads=2").build_model("classify", num_classes=3)
    assert model.training and model.config.num_classes == 3


def test_a_value_error_before_training_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def train() -> None:
        raise ValueError("the table has no rows")

    assert status(train) == 2
    assert capsys.readouterr().err == "error: the table has no rows\n"


def test_a_value_error_during_training_is_a_fault_of_the_code() -> None:
    def train(run: Run) -> None:
        run.started = True  # as `fit` does
        raise ValueError("shapes do not match")

    recipe = CONFIGS.parent / "recipes" / "vit_cifar.py"  # whose name and configs `main` looks up
    with pytest.raises(ValueError, match="shapes do not match"):
        main(eval(compile("lambda run: train(run)", recipe, "eval"), {"train": train}), ImageSettings, [])


def run_of(*words: str, configs: Path | None = None) -> Run:
    return Run.of("vit_cifar", ["data=synthetic", *words], ImageSettings, configs)


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """Settings of a recipe and of hardware, and a file `mine.yaml` of the user."""
    (tmp_path / "hardware").mkdir()
    (tmp_path / "vit_cifar.yaml").write_text("trainer: {epochs: 2}\n")
    (tmp_path / "hardware" / "cpu.yaml").write_text("trainer: {accelerator: cpu, log_every: 7}\n")
    (tmp_path / "hardware" / "gpu.yaml").write_text("trainer: {accelerator: cuda, log_every: 9}\n")
    (tmp_path / "mine.yaml").write_text("trainer: {accelerator: cpu}\n")
    return tmp_path


def test_the_hardware_is_that_of_the_accelerator_wherever_it_is_chosen(
    configs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.training.devices.best_accelerator", lambda: "cuda")
    for word in ("accelerator=cpu", f"config={configs / 'mine.yaml'}", "hardware=cpu"):
        trainer = run_of(word, configs=configs).config.trainer
        assert (trainer.accelerator, trainer.log_every) == ("cpu", 7), word


def test_printed_commands_keep_the_files_of_settings(configs: Path) -> None:
    words = ["hardware=cpu", f"config={configs / 'mine.yaml'}"]
    run = run_of("epochs=3", "lr=0.5", *words, configs=configs)
    assert set(words) <= set(shlex.split(run.command))
    longer = shlex.split(run.longer_command("epochs=40"))
    assert set(words) <= set(longer) and "lr=0.5" in longer
    assert [word for word in longer if word.startswith("epochs")] == ["epochs=40"]


def test_no_source_is_not_a_pretrained_model(configs: Path) -> None:
    (configs / "vit_cifar.yaml").write_text("model: {depth: 3}\n")
    (configs / "vit_cifar.source.yaml").write_text("optim: {lr: 0.25}\n")
    (configs / "mine.yaml").write_text("model: {source: null}\n")
    for word in ("model.source=null", f"config={configs / 'mine.yaml'}"):
        config = run_of(word, "accelerator=cpu", configs=configs).config
        assert config.model.overrides == {"depth": 3} and config.optim.lr != 0.25, word
    config = run_of("model.source=runs/x", "accelerator=cpu", configs=configs).config
    assert config.model.overrides == {} and config.optim.lr == 0.25


def test_a_new_model_and_a_pretrained_one_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match="give only one of them"):
        run_of("model=vit_cifar_tiny", "model.source=runs/x")


def test_a_cpu_is_not_given_fp16() -> None:
    with pytest.raises(SettingsError, match="precision=bf16-master does not work with strategy=fsdp2"):
        run_of("precision=bf16-master", "strategy=fsdp2", "accelerator=cpu")
    with pytest.raises(SettingsError, match="precision=fp16 is not supported on CPUs"):
        run_of("precision=fp16", "accelerator=cpu")
