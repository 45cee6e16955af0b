"""Images by gated cross-attention that do not fit the text, the state, the folder or the kind of attention."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo

MARKER = 7
SIZES: dict[str, Any] = {
    "image.width": 24, "image.heads": 4, "image.mlp_dim": 40, "image.image_size": 16, "text.width": 32,
    "text.depth": 2, "text.heads": 4, "text.mlp_dim": 48, "text.vocab_size": 60, "text.max_length": 64,
    "image_token_id": MARKER, "resampler_tokens": 3, "resampler_depth": 1, "resampler_heads": 2,
    "resampler_head_dim": 8, "gate_value": 0.5,
}  # fmt: skip
PIXELS = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def make(**overrides: Any) -> Any:
    return zoo.create_model("idefics_nano", seed=0, **SIZES | overrides).eval()


def ids(*rows: int) -> torch.Tensor:
    """Texts of six tokens with so many markers each."""
    found = torch.full((len(rows), 6), 9)
    for row, count in enumerate(rows):
        found[row, :count] = MARKER
    return found


@torch.no_grad()
def test_more_or_fewer_images_than_markers() -> None:
    model = make()
    with pytest.raises(ValueError, match=r"have 3 tokens 7 \(image_token_id\), but there are 2 images: expected one"):
        model(ids(2, 1), pixel_values=PIXELS[:2])
    with pytest.raises(ValueError, match=r"have no tokens 7 \(image_token_id\), but there are 3 images"):
        model(ids(0, 0), pixel_values=PIXELS)
    with pytest.raises(ValueError, match=r"have 2 tokens 7 \(image_token_id\), but there are no images"):
        model(ids(2))
    with pytest.raises(ValueError, match=r"row 1 has 3 tokens 7 .*, but pixel_values have 2 images a row"):
        model(ids(1, 3), pixel_values=PIXELS[:2].expand(2, -1, -1, -1, -1))


@torch.no_grad()
def test_masks_that_do_not_fit() -> None:
    model, pixels = make(), PIXELS[:2][None]
    for mask, message in (
        (
            torch.ones(1, 6, 3),
            r"expected \[B, N, I\], 1 where a token sees an image, given \(1, 6, 3\) of torch.float32",
        ),
        (torch.ones(6, 2).bool(), r"expected \[B, N, I\]"),
        (torch.ones(1, 6, 3).bool(), r"is \(1, 6, 3\) and pixel_values \(1, 2, 3, 16, 16\)"),
        (torch.ones(1, 5, 2).bool(), r"is \(1, 5, 2\), expected \(1, 6, 2\): each token of the batch"),
    ):
        with pytest.raises(ValueError, match=message):
            model(ids(2), pixel_values=pixels, image_attention_mask=mask)


@torch.no_grad()
def test_images_behind_the_first_tokens() -> None:
    model = make()
    state = model.new_state(1, 20, features=model.features(pixel_values=PIXELS[:1]))
    model.decode(ids(1), state)
    state.features = model.features(pixel_values=PIXELS[:1])
    with pytest.raises(ValueError, match="reads its images with the first tokens of a text"):
        model.decode(ids(1), state)
    with pytest.raises(ValueError, match="expected a CrossState, which new_state of this model makes"):
        model.decode(ids(1), model.text.new_state(1))


def test_kinds_that_cannot_hide_an_image() -> None:
    for kind, message in (
        ("linear", "cannot hide those from a token that it does not see"),
        ({"kind": "local", "window": 3}, "is of distances within one text"),
        ("gated_linear", "for self-attention only"),
    ):
        with pytest.raises(ValueError, match=message):
            make(cross_attention=kind)
    assert make(cross_attention="additive")(ids(1), pixel_values=PIXELS[:1]).isfinite().all()
    for field, message in (
        ({"cross_interval": 0}, "cross_interval=0: expected a positive integer"),
        ({"gate_std": -1.0}, "gate_std=-1.0: expected a standard deviation"),
        ({"gate": "matrix"}, "gate='matrix'"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**field)
    with pytest.raises(ValueError, match="by='resampler' needs resampler_tokens"):
        zoo.create_model("bridge_nano", by="resampler")


def test_a_folder_of_texts_and_towers_whose_widths_do_not_fit(tmp_path: Path) -> None:
    zoo.export(make(), tmp_path)
    file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    tensors, values = load_file(file), json.loads(config.read_text())
    save_file({name: x for name, x in tensors.items() if "vision" not in name}, file)
    with pytest.raises(zoo.LoadError, match=r"missing model.vision_model.*same model"):
        zoo.load(tmp_path)
    save_file(tensors, file)
    config.write_text(json.dumps(values | {"vision_config": values["vision_config"] | {"embed_dim": 32}}))
    with pytest.raises(zoo.LoadError, match=r"mis-shaped .*expected"):
        zoo.load(tmp_path)
    config.write_text(json.dumps(values | {"additional_vocab_size": 3}))
    with pytest.raises(zoo.LoadError, match=r"additional_embedding.*|embed_tokens.weight is"):
        zoo.load(tmp_path)
    config.write_text(json.dumps(values | {"cross_layer_interval": 1}))
    with pytest.raises(zoo.LoadError, match=r"missing model\.gated_cross_attn_layers\.1"):
        zoo.load(tmp_path)
