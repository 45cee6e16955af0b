"""A path, dtype, device or format that cannot be used is refused in one line before anything is read or written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo

CALLS: dict[str, Callable[[Any], object]] = {
    "load": zoo.load,
    "verify": zoo.verify,
    "save": lambda path: zoo.save(tiny(), path),
    "export": lambda path: zoo.export(tiny(), path),
    "config": lambda path: zoo.load(".", config=path),
}


def tiny(**options: Any) -> zoo.Model:
    return zoo.create_model("vit_cifar_tiny", depth=1, width=16, heads=2, seed=0, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return zoo.save(tiny(num_classes=2), tmp_path / "model")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("path", [None, 3, b"model", "", ["model"]], ids=repr)
def test_what_is_not_a_path(call: str, path: Any) -> None:
    if call == "config" and path is None:
        pytest.skip("None is the default of config=")
    with pytest.raises(ValueError, match="expected a path"):
        CALLS[call](path)


@pytest.mark.parametrize("save", [zoo.save, zoo.export], ids=["save", "export"])
def test_the_home_is_the_same_for_saving_and_loading(
    save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    model = zoo.create_model("vit_tiny_patch16_224", image_size=32, depth=1, width=16, heads=2, seed=0)
    assert save(model, "~/model") == tmp_path / "model"
    assert zoo.load("~/model").config.width == 16
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("dtype", ["float16", torch.int8, torch.float8_e4m3fn, torch.complex64, 16], ids=str)
def test_a_dtype_in_which_no_model_computes(dtype: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"dtype=.*expected one of torch\.float32"):
        zoo.load(folder, dtype=dtype)
    with pytest.raises(ValueError, match=r"dtype=.*expected one of torch\.float32"):
        zoo.optimize(zoo.load(folder), dtype=dtype)


@pytest.mark.parametrize("device", ["tpu", "meta", "cuda:99", None, 1.5], ids=repr)
@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_device_that_is_not_there_is_not_called_a_damaged_file(device: Any, weights: str, folder: Path) -> None:
    if weights.endswith(".bin"):
        torch.save(zoo.load(folder).state_dict(), folder / weights)
        (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="device=") as error:
        zoo.load(folder, device=device)
    assert "truncated" not in str(error.value)


@pytest.mark.parametrize("format", [None, 3, ["timm"], "Timm", "tensorrt"], ids=repr)
def test_a_format_that_is_not_known(format: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="formats:"):
        zoo.export(zoo.create_model("vit_tiny_patch16_224", depth=1), tmp_path / "model", format)


@pytest.mark.parametrize("model", [None, torch.nn.Linear(2, 2), {}], ids=["None", "another module", "a dict"])
@pytest.mark.parametrize("call", [lambda m: zoo.save(m, "x"), lambda m: zoo.export(m, "x"), zoo.optimize])
def test_what_is_not_a_model(model: Any, call: Callable[[Any], object]) -> None:
    with pytest.raises(ValueError, match=r"expected a zoo\.Model"):
        call(model)


@pytest.mark.parametrize("head", ["pool", None])
def test_classes_for_a_head_that_has_none(head: str | None, folder: Path) -> None:
    with pytest.raises(ValueError, match="num_classes=3 is for a classifier"):
        zoo.load(folder, head=head, num_classes=3)
    with pytest.raises(ValueError, match="labels= is for a classifier"):
        zoo.load(folder, head=head, labels=["a", "b"])
    assert zoo.load(folder, head="pool", num_classes=0).config.head == "pool"
