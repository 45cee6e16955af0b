"""A temperature makes probabilities as high as they are right, changes no prediction, and is stored with the model."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.utils.data import DataLoader

import zoo
from zoo.tasks import ClassificationTask
from zoo.tasks.calibration import TemperatureFit, calibration_error, fit_temperature
from zoo.tasks.problem_types import Objective
from zoo.utils.errors import LoadError


def sampled(temperature: float, problem_type: str, n: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are `temperature` times those that the labels are sampled from."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(n, 4, generator=g) * 1.5
    if problem_type == "single_label_classification":
        labels = torch.multinomial(z.softmax(-1), 1, generator=g)[:, 0]
    else:
        labels = (torch.rand(n, 4, generator=g) < z.sigmoid()).long()
    return z * temperature, labels


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_is_that_of_the_logits(temperature: float, problem_type: Any) -> None:
    logits, labels = sampled(temperature, problem_type)
    found = fit_temperature(logits, labels, problem_type)
    assert found == pytest.approx(temperature, rel=0.08)
    loss = F.cross_entropy if problem_type.startswith("single") else F.binary_cross_entropy_with_logits
    target = labels if problem_type.startswith("single") else labels.float()
    best = loss(logits / found, target)
    assert all(best <= loss(logits / (found * factor), target) for factor in (0.97, 1.03))
    after = calibration_error(logits / found, labels, problem_type)
    assert after < 0.02 and (temperature == 1.0 or after < calibration_error(logits, labels, problem_type) / 3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_without_a_best_temperature_there_is_none(sign: float) -> None:
    """All right: the lower the better. All wrong: the higher."""
    labels = torch.tensor([0, 1, 2, 0])
    assert fit_temperature(sign * F.one_hot(labels, 3).float(), labels, "single_label_classification") is None
    metric = TemperatureFit("single_label_classification")
    metric.update(sign * F.one_hot(labels, 3).float(), labels)
    found = metric.compute()
    assert found[0].isnan() and found[1] == found[2]


def small() -> zoo.Model:
    return zoo.create_model("vit_cifar_tiny", depth=1, width=16, heads=2, num_classes=4, seed=0, stem="patch",
                            class_token=True, pool="cls").eval()  # fmt: skip


def test_a_task_fits_it_on_the_validation_items_and_the_model_keeps_it(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    model = small()
    pixels = torch.randn(64, 3, 32, 32, generator=g)
    with torch.no_grad():
        model.head.proj.weight.mul_(30.0)
        labels = torch.where(torch.rand(64, generator=g) < 0.7, model(pixels).argmax(1), 0)
        logits = model(pixels)
    loader = DataLoader(list(zip(pixels, labels)), 16)  # type: ignore[arg-type]
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    task = ClassificationTask(model)
    trainer.test(task, loader, verbose=False)
    before = {name: float(x) for name, x in trainer.callback_metrics.items()}
    with task.fit_temperature():
        trainer.validate(task, loader, verbose=False)
    assert not trainer.callback_metrics.keys() & {"val_loss", "val_accuracy"}
    found = fit_temperature(logits, labels, "single_label_classification")
    assert found is not None and found > 1.2 and task.temperature == pytest.approx(found, rel=1e-4)
    trainer.test(task, loader, verbose=False)
    after = {name: float(x) for name, x in trainer.callback_metrics.items()}
    assert after["test_accuracy"] == before["test_accuracy"] and after["test_loss"] < before["test_loss"]
    assert after["test_calibration_error"] == pytest.approx(task.calibration["val_calibration_error"], abs=1e-5)
    assert before["test_calibration_error"] == pytest.approx(task.calibration["val_calibration_error_before"], abs=1e-5)
    probabilities = torch.cat(trainer.predict(task, DataLoader(list(zip(pixels, labels)), 16)))  # type: ignore[arg-type]
    assert torch.allclose(probabilities, (logits / task.temperature).softmax(-1), atol=1e-5)
    assert model.temperature == 1.0 and task.finalize(model) is model and model.temperature == task.temperature


def test_training_forgets_the_temperature_of_other_weights() -> None:
    model = small()
    model.temperature = 2.0
    task = ClassificationTask(model)
    assert task.temperature == 2.0
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False, max_steps=1
    )
    trainer.fit(task, DataLoader([(torch.zeros(3, 32, 32), 1)] * 2, 2))  # type: ignore[arg-type]
    assert task.temperature == 1.0 and task.finalize(model).temperature == 1.0


def test_it_is_stored_with_the_model_and_applied_to_probabilities_alone(tmp_path: Path) -> None:
    model = small()
    model.preprocess, model.labels = model.default_preprocess(), list("abcd")
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    zoo.save(model, tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["format"] == 2
    model.temperature = 2.5
    zoo.save(model, tmp_path / "model")
    loaded = zoo.load(tmp_path / "model")
    values = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (values["format"], values["temperature"], loaded.temperature) == (3, 2.5, 2.5)
    with torch.no_grad():
        logits = loaded(pixels)
        assert torch.equal(logits, small()(pixels))
    image = torch.zeros(32, 32, 3, dtype=torch.uint8).numpy()
    with torch.no_grad():
        expected = (model(**model.preprocess(image)) / 2.5).softmax(-1)[0]
    assert dict(zoo.predict(loaded, image)) == pytest.approx(dict(zip("abcd", expected.tolist())), abs=1e-6)
    assert zoo.load(tmp_path / "model", num_classes=3).temperature == 1.0  # another head
    assert zoo.load(tmp_path / "model", labels=list("dcba")).temperature == 2.5  # the same, in another order
    assert zoo.load(tmp_path / "model", problem_type="multi_label_classification").temperature == 1.0
    loaded.reset_head(4)
    assert loaded.temperature == 1.0


@pytest.mark.parametrize("value", [0, -1.0, "2", None, True])
def test_a_temperature_that_is_none_is_refused(tmp_path: Path, value: Any) -> None:
    model = small()
    with pytest.raises(ValueError, match=r"temperature=.*expected a finite number above 0"):
        model.temperature = value
    model.temperature = 2.0
    zoo.save(model, tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"temperature": value}))
    with pytest.raises(LoadError, match="'temperature' is"):
        zoo.load(tmp_path / "model")


@pytest.mark.parametrize("format", ["transformers", "timm"])
def test_an_export_has_the_temperature_in_its_last_layer(
    tmp_path: Path, format: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small()
    model.labels = list("abcd")
    zoo.export(model, tmp_path / "plain", format=format)
    assert "temperature" not in capsys.readouterr().err
    model.temperature = 4.0
    zoo.export(model, tmp_path / "out", format=format)
    assert "the temperature 4 is part of the last layer there" in capsys.readouterr().err
    plain, folded = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "out"))
    heads = [name for name in plain if not torch.equal(plain[name], folded[name])]
    assert all(torch.equal(folded[name], plain[name] / 4.0) for name in heads) and len(heads) >= 1
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(zoo.load(tmp_path / "out")(pixels), model(pixels) / 4.0)
    assert model.temperature == 4.0 and zoo.load(tmp_path / "out").temperature == 1.0


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_the_error_does_not_depend_on_the_order_of_the_items(problem_type: Any) -> None:
    """Devices split a validation set in different ways, and a run logs the same numbers."""
    logits, labels = sampled(1.0, problem_type, n=999)
    objective, found = Objective(problem_type), set()
    for seed in range(4):
        order = torch.randperm(999, generator=torch.Generator().manual_seed(seed))
        metric = objective.metrics("val", 4)["calibration_error"]
        for rows in order.split(100):
            metric.update(*objective.metric_inputs(logits[rows], labels[rows]))
        found.add(float(metric.compute()))
    assert len(found) == 1 and found.pop() == pytest.approx(calibration_error(logits, labels, problem_type), abs=1e-6)
