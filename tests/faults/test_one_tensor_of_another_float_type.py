"""A file in which one tensor is of another float type is refused by its name, or loaded in one type with a note."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo.checkpoints.formats import native

NAME = "blocks.0.mlp.up.weight"
IDS = torch.randint(5, 200, (1, 8), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.complex64], ids=str
)
def test_it_does_not_load_in_silence(dtype: torch.dtype, tmp_path: Path) -> None:
    zoo.save(zoo.create_model("gpt_nano", depth=1, width=16, heads=2, seed=0).eval(), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {NAME: tensors[NAME].to(dtype)}, file, {"format": "pt"})
    try:
        model = zoo.load(tmp_path / "model")
    except zoo.LoadError as error:
        assert NAME in str(error)
    else:
        assert not model.load_report.plain
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        with torch.no_grad():
            assert model(input_ids=IDS).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_type_that_is_asked_for_is_that_of_all(dtype: torch.dtype, tmp_path: Path) -> None:
    zoo.save(zoo.create_model("gpt_nano", depth=1, width=16, heads=2, seed=0).eval(), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {NAME: tensors[NAME].to(dtype)}, file, {"format": "pt"})
    model = zoo.load(tmp_path / "model", dtype=torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.load_report.plain


def test_one_value_that_stands_for_many(tmp_path: Path) -> None:
    """A pickle may say that a tensor has 10^12 values, all of them one number of the file."""
    model = zoo.create_model("gpt_nano", depth=1, width=16, heads=2, seed=0).eval()
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    state[f"model.{NAME}"] = torch.zeros(1).expand(state[f"model.{NAME}"].shape)
    torch.save({"zoo": native.describe(model), "state_dict": state}, tmp_path / "last.ckpt")
    with pytest.raises(zoo.LoadError, match=NAME):
        zoo.load(tmp_path / "last.ckpt")
