"""Weights, an eps, a mean or a std with which every output is NaN or meaningless do not load without a word."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = zoo.create_model("vit_cifar_tiny", depth=1, width=16, heads=2, num_classes=2, seed=0).eval()
    model.labels = ["cat", "dog"]
    return zoo.save(model, tmp_path / "model")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_a_weight(value: float, folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["head.proj.weight"][0, 0] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    try:
        assert not zoo.load(folder).load_report.plain
    except zoo.LoadError as error:
        assert "head.proj.weight" in str(error)


@pytest.mark.parametrize("value", ["NaN", "1e999", "-1.0", "0.0"])
def test_an_eps(value: str, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["norm_eps"] > 0
    config["config"]["norm_eps"] = "EPS"
    (folder / "config.json").write_text(json.dumps(config).replace('"EPS"', value))
    with pytest.raises(zoo.LoadError, match="eps"):
        zoo.load(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("std", [0, 0, 0]), ("std", [-1, 1, 1]), ("std", [math.nan] * 3), ("mean", [math.nan] * 3),
        ("std", ["a", "b", "c"]), ("mean", [math.inf] * 3),
    ],
)  # fmt: skip
def test_preprocessing(field: str, value: list[Any], folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["preprocess"][field] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(zoo.LoadError, match=field):
        zoo.load(folder)


def test_generate_with_weights_of_nan() -> None:
    model = zoo.create_model("gpt_nano", depth=1, width=16, heads=2, seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(ValueError, match="finite"):
        zoo.generate(model, torch.tensor([[72]]), max_new_tokens=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_great_weights_are_finite(dtype: torch.dtype, folder: Path) -> None:
    """Their sum is not."""
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["head.proj.weight"].fill_(torch.finfo(dtype).max)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert zoo.load(folder).load_report.plain


def test_a_weight_of_a_head_that_is_not_used(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["head.proj.weight"][0, 0] = math.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(zoo.LoadError, match=r"head\.proj\.weight \(NaN or infinite in 1 of 32 values"):
        zoo.load(folder, head="pool")
