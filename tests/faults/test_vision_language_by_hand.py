"""What a user of vision-language models tries by hand: costs, verification, half precision, and misspelled options."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from caption_peers import noise_images, transformers_blip
from llava_peers import photographs, transformers_llava
from paligemma_peers import transformers_paligemma
from PIL import Image

import zoo
from zoo.cli.main import main
from zoo.cli.serve_run import service_of
from zoo.inference.cost import measure
from zoo.inference.cost_by_kind import cost_by_kind
from zoo.preprocessing.tokenizer_training import train

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


@pytest.mark.parametrize(
    ("name", "what"),
    [("bridge_nano", "ask it about images, use zoo.generate"), ("blip_nano", "describe images, use zoo.generate")],
)
def test_models_that_write_about_images_are_not_predicted_with_or_served(
    name: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = zoo.create_model(name, seed=0)
    with pytest.raises(ValueError, match=f"head='lm': predicting needs a classifier .*; to {what}"):
        zoo.predict(model, photographs(1)[0])
    zoo.save(model, tmp_path)
    assert main(["serve", str(tmp_path), "--port", "0"]) == 2
    error = capsys.readouterr().err
    assert f"the model writes texts: to {what}" in error and "--image FILE" in error


def test_models_of_which_zoo_predict_writes_texts_are_served() -> None:
    args = argparse.Namespace(truncation=None, max_batch_size=1)
    with pytest.raises(ValueError, match="the model has no preprocessing"):  # and else is served
        service_of(zoo.create_model("t5_nano", depth=1, seed=0), args)


def test_new_models_have_the_image_processor_of_the_published_ones(tmp_path: Path) -> None:
    clip = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    for name, colors, fit in (
        ("llava_nano", clip, "shortest"),
        ("llava_next_nano", clip, "shortest"),
        ("idefics_nano", clip, "squash"),
        ("paligemma_nano", ((0.5,), (0.5,)), "squash"),
    ):
        found: Any = zoo.create_model(name, seed=0).preprocess.image
        found = getattr(found, "tile", found)
        assert ((found.mean, found.std), found.fit) == (colors, fit), name
    model = zoo.create_model("idefics_nano", seed=0)
    zoo.export(model, tmp_path / "idefics")
    assert zoo.load(tmp_path / "idefics").preprocess.image.fit == "squash"
    model.preprocess = replace(model.preprocess, image=replace(model.preprocess.image, fit="shortest"))
    with pytest.raises(ValueError, match="IdeficsImageProcessor resizes images to a square without a crop"):
        zoo.export(model, tmp_path / "cropped")


def test_a_tower_of_a_model_of_several_keeps_its_processor() -> None:
    own = dict(width=32, heads=2, depth=2, mlp_dim=32)
    small = {f"{tower}.{name}": value for tower in ("image", "text") for name, value in own.items()}
    clip = zoo.create_model("clip_vit_base_patch32", seed=0, vocab_size=300, **small)
    clip.preprocess = replace(clip.preprocess, text=train("bpe", ["what is this"], 300, max_length=77))
    assert zoo.bridge(image=clip, text="llama_nano", seed=0).preprocess.image == clip.preprocess.image
    joined = zoo.contrast(image="vit_cifar_tiny", text=clip, seed=0)
    assert joined.preprocess.text == clip.preprocess.text


def test_fields_of_a_resampler_without_one() -> None:
    with pytest.raises(ValueError, match="resampler_depth=2 has no effect without a resampler: set resampler_tokens"):
        zoo.create_model("bridge_nano", by="cross", resampler_depth=2)
    assert zoo.create_model("idefics_nano", resampler_tokens=None).config.resampler_depth == 2  # of the variant


@pytest.mark.parametrize("fields", [{"attention": "linear"}, {"attention": ["softmax", "delta"]}, {"mixer": "mamba"}])
def test_kinds_that_cannot_apply_the_mask_of_a_prefix(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"'(linear|delta|Mamba)' in the text tower reads the tokens in order, and"):
        zoo.create_model("paligemma_nano", **{f"text.{name}": value for name, value in fields.items()})


def test_images_that_are_too_large_or_only_a_line(tmp_path: Path) -> None:
    file, model = tmp_path / "line.png", zoo.create_model("llava_next_nano", seed=0)
    for size in ((30_000, 2), (2, 30_000), (1, 1)):
        Image.new("L", size).save(file)
        batch = model.preprocess.image(file)
        with torch.no_grad():
            assert [len(model.features(**batch))] == model.preprocess.image.numbers_of_tokens(batch["image_sizes"])
    Image.new("1", (14_000, 14_000)).save(file)
    for name in ("llava_next_nano", "bridge_nano", "blip_nano"):
        with pytest.raises(ValueError, match=r"line\.png is too large to be decoded safely"):
            zoo.create_model(name, seed=0).preprocess.image(file)
