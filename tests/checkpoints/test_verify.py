import sys

import pytest
import torch
from peers import timm_folder, transformers_folder
from safetensors.torch import load_file, save_file

import zoo
from zoo.checkpoints.verify import error


def change_one(folder, name):
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[:3] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_folder_of_ours_against_its_golden_outputs(tmp_path):
    model = zoo.create_model("vit_cifar_tiny", seed=0)
    folder = zoo.save(model, tmp_path / "model")
    result = zoo.verify(folder)
    assert result.ok and result.difference <= 1e-6 and result.against == "its golden outputs"
    assert result.versions == {"zoo": zoo.__version__, "torch": torch.__version__.split("+")[0]}
    assert "\n" not in str(result) and ": ok, greatest difference to its golden outputs" in str(result)
    change_one(folder, "blocks.0.norm1.weight")
    assert not zoo.verify(folder).ok and "DIFFERENT" in str(zoo.verify(folder))
    (folder / "golden.safetensors").unlink()
    with pytest.raises(zoo.LoadError, match=r"no golden\.safetensors"):
        zoo.verify(folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(tmp_path, dtype):
    folder = zoo.save(zoo.create_model("vit_cifar_tiny", seed=0, depth=2).to(dtype), tmp_path / "model")
    assert zoo.verify(folder).ok


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_folder_of_another_library_against_that_library(tmp_path, monkeypatch, library):
    if library == "timm":
        timm_folder(tmp_path, "vit_base_patch16_224", img_size=32, patch_size=8)
    else:
        transformers_folder(tmp_path, "DeiTForImageClassificationWithTeacher")
    result = zoo.verify(tmp_path)
    assert result.ok and result.difference <= 1e-5 and library in result.versions and library in str(result)
    load = zoo.verify.__globals__["load"]

    def wrong(*args, **options):
        model = load(*args, **options)
        with torch.no_grad():
            model.blocks[0].mixer.q.weight[:3] += 1
        return model

    monkeypatch.setitem(zoo.verify.__globals__, "load", wrong)
    assert not zoo.verify(tmp_path).ok
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match=f"pip install {library}"):
        zoo.verify(tmp_path)


def test_the_error_measure():
    a = torch.tensor([1.0, 4.0])
    assert error(a, a) == 0 and error(a, torch.tensor([1.0, 8.0])) == 0.5 and error(a / 10, a * 0) == pytest.approx(0.4)
    assert error(a, a * torch.nan) == float("inf")
