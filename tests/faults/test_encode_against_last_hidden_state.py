"""`encode` returns the hidden states after the final norm, as transformers' `last_hidden_state` and timm's
`forward_features` are; CLIP's image tower is the exception that the documentation names."""

from pathlib import Path
from typing import Any

import pytest
import torch
from clip_peers import texts, transformers_pair
from decoder_peers import decoder
from peers import error, pixels, timm_folder, transformers_folder
from text_peers import transformers_text

import zoo

PAGE = Path(zoo.__file__).parents[1] / "docs" / "migration" / "transformers.md"


def test_the_image_tower_of_clip_is_before_its_norm(tmp_path: Path) -> None:
    theirs: Any = transformers_pair(tmp_path, "CLIPModel")
    model, x = zoo.load(tmp_path), pixels()
    with torch.no_grad():
        expected = theirs.vision_model(x).last_hidden_state
        normed, (before,) = model.image.encode(x, layers=[-1])
        assert error(before, expected) <= 1e-5
        assert error(normed, theirs.vision_model.post_layernorm(expected)) <= 1e-5
        assert error(model.image.encode(x), expected) > 1e-2
    row = next(line for line in PAGE.read_text().splitlines() if "`.last_hidden_state`" in line)
    assert "CLIP" in row and "layers=[-1]" in row


@pytest.mark.parametrize("name, tower", [("CLIPModel", "text"), ("SiglipModel", "text"), ("SiglipModel", "image")])
def test_the_other_towers(name: str, tower: str, tmp_path: Path) -> None:
    theirs: Any = transformers_pair(tmp_path, name, **{"text": {"hidden_size": 32}} if name == "SiglipModel" else {})
    model = zoo.load(tmp_path)
    x = pixels() if tower == "image" else texts()[0]
    part = theirs.vision_model if tower == "image" else theirs.text_model
    with torch.no_grad():
        assert error(getattr(model, tower).encode(x), part(x).last_hidden_state) <= 1e-5


IMAGE = ["ViTModel", "DeiTModel", "Dinov2Model"]
DECODERS = ["GPT2Model", "LlamaModel"]
ENCODERS = ["BertModel", "RobertaModel", "DistilBertModel", "ModernBertModel"]


@pytest.mark.parametrize("name", [*IMAGE, *DECODERS, *ENCODERS])
def test_single_towers(name: str, tmp_path: Path) -> None:
    image = name in IMAGE
    make: Any = transformers_folder if image else decoder if name in DECODERS else transformers_text
    theirs = make(tmp_path, name)
    x = pixels() if image else torch.arange(5, 21)[None]
    with torch.no_grad():
        assert error(zoo.load(tmp_path).encode(x), theirs(x).last_hidden_state) <= 1e-5


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_forward_features_of_timm(name: str, tmp_path: Path) -> None:
    theirs: Any = timm_folder(tmp_path, name, img_size=32, patch_size=8)
    x = pixels()
    with torch.no_grad():
        assert error(zoo.load(tmp_path).encode(x), theirs.forward_features(x)) <= 1e-5
