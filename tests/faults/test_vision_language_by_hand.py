"""What a user of vision-language models tries by hand: costs, verification, half precision, and misspelled options."""

from pathlib import Path
from typing import Any

import pytest
import torch
from caption_peers import noise_images, transformers_blip
from llava_peers import photographs, transformers_llava
from paligemma_peers import transformers_paligemma

import zoo
from zoo.inference.cost import measure
from zoo.inference.cost_by_kind import cost_by_kind

NAMES = ("bridge_nano", "idefics_nano", "llava_next_nano", "paligemma_nano", "llava_nano")


@pytest.mark.parametrize("name", [name for name in NAMES if name in zoo.list_models()])
def test_costs_of_models_that_read_images(name: str) -> None:
    short, long = (measure(name, length=length) for length in (40, 80))
    assert long.flops > short.flops
    (found,) = cost_by_kind(name, 40, names=["softmax"])
    assert not found.refused and found.flops == short.flops and found.cache_bytes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            dict(cross_attention="linear"),
            "cross_attention='linear' has no effect with by='projector': it is for by='cross'",
        ),
        (dict(resampler_tokens=4), "resampler_tokens=4 has no effect with by='projector'"),
        (dict(by="cross", projector="linear"), "projector='linear' has no effect with by='cross'"),
        (dict(by="resampler", resampler_tokens=4, gate="channel"), "gate='channel' has no effect with by='resampler'"),
    ],
)
def test_fields_of_other_ways_to_join_towers(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.create_model("bridge_nano", **fields)


def test_costs_of_a_resampler() -> None:
    model = zoo.bridge(image="vit_cifar_tiny", text="llama_nano", by="resampler", resampler_tokens=3, seed=0)
    trained = [p.requires_grad for p in model.parameters()]
    assert measure(model, length=40).flops and trained == [p.requires_grad for p in model.parameters()]


def test_the_prefix_of_paligemma_is_verified(tmp_path: Path) -> None:
    transformers_paligemma(tmp_path)
    assert zoo.verify(tmp_path).ok


def test_images_of_a_batch_of_idefics_are_verified(tmp_path: Path) -> None:
    zoo.export(zoo.create_model("idefics_nano", seed=0, gate_value=0.5), tmp_path)
    assert zoo.verify(tmp_path).ok


def test_captions_in_half_precision(tmp_path: Path) -> None:
    transformers_blip(tmp_path)
    model = zoo.load(tmp_path, dtype=torch.bfloat16)
    assert isinstance(zoo.generate(model, images=noise_images(1)[0], max_new_tokens=2), str)


def test_options_that_do_not_exist(tmp_path: Path) -> None:
    transformers_llava(tmp_path)
    model, image = zoo.load(tmp_path), photographs(1)[0]
    with pytest.raises(TypeError, match="no option 'image'; did you mean 'images'"):
        zoo.generate(model, text="a", image=image)
    with pytest.raises(TypeError, match="Llava takes text, images, pixel_values; it has no option 'language'"):
        zoo.generate(model, torch.tensor([[5, 6]]), language="en")
    with pytest.raises(ValueError, match="images= needs text="):
        zoo.generate(model, images=image)
