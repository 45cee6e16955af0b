"""Position embeddings are resampled for another image size as the library of the file does it."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from peers import error, randomize

import zoo

SHAPE: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64, "patch_size": 8
}  # fmt: skip
MODELS: dict[str, Any] = {
    "vit": (transformers.ViTConfig, transformers.ViTModel),
    "deit": (transformers.DeiTConfig, transformers.DeiTModel),
    "dinov2": (transformers.Dinov2Config, transformers.Dinov2Model),
    "dinov2_with_registers": (transformers.Dinov2WithRegistersConfig, transformers.Dinov2WithRegistersModel),
    "clip_vision": (transformers.CLIPVisionConfig, transformers.CLIPVisionModel),
    "siglip_vision": (transformers.SiglipVisionConfig, transformers.SiglipVisionModel),
}
every_size = pytest.mark.parametrize("size", [(40, 40), (96, 96), (48, 80)])


@every_size
@pytest.mark.parametrize("name", MODELS)
def test_files_of_transformers(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    config, model = MODELS[name]
    theirs = randomize(model(config(**SHAPE)))
    theirs.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, *size)
    options = {} if name.startswith("dinov2") else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        expected = theirs(pixels, **options).last_hidden_state
        ours = zoo.load(tmp_path, image_size=size, head=None)
        resized = ours(pixels)
        if name == "clip_vision":  # transformers' states are those before the final norm
            expected = theirs.post_layernorm(expected)
        assert error(resized, expected) < 1e-5
        zoo.save(ours, tmp_path / "ours")
        zoo.save(zoo.load(tmp_path, head=None), tmp_path / "kept")
        again = zoo.load(tmp_path / "kept", image_size=size)
        assert torch.equal(again(pixels), resized)  # what the file says is saved
        pooled = zoo.load(tmp_path, head="pool")
        at_once = pooled(list(pixels))  # sizes that differ from the model's
        assert torch.allclose(at_once, zoo.load(tmp_path, image_size=size, head="pool")(pixels), atol=1e-5)


@every_size
def test_files_of_timm(size: tuple[int, int], tmp_path: Path) -> None:
    shape = {"img_size": 64, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 5}
    theirs = randomize(timm.create_model("vit_tiny_patch16_224", **shape, dynamic_img_size=True))
    timm.models.save_for_hf(theirs, tmp_path, model_args=shape)
    pixels = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert error(zoo.load(tmp_path, image_size=size)(pixels), theirs(pixels)) < 1e-5


def test_an_export_to_the_other_library_is_not_refused(tmp_path: Path) -> None:
    """Both libraries compute the same at the size of the model."""
    vit = zoo.create_model("vit_tiny_patch16_224", width=16, depth=1, heads=2, num_classes=3, seed=0)
    zoo.export(vit, tmp_path / "vit", format="transformers")
    zoo.export(zoo.load(tmp_path / "vit"), tmp_path / "timm", format="timm")
