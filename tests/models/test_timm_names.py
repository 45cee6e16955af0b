"""timm's names on our models: the numbers and shapes of timm's own, on the same weights."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

import zoo
from tests.models.test_contract import ROWS
from zoo.models.timm_names import take_indices
from zoo.preprocessing.image import ImageProcessor
from zoo.tasks.optimizer import param_groups

SMALL = dict(width=48, depth=3, heads=3, image_size=32, patch_size=8, num_classes=5)
SHAPES = {
    "class token": {},
    "mean": dict(pool="mean", pool_norm=True),
    "map": dict(class_token=False, pool="map"),
    "registers": dict(registers=2, position_prefix=0, layer_scale=0.1),
    "distilled": dict(distilled=True),
}


def error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1))


def randomized(model: zoo.Model) -> zoo.Model:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


@pytest.fixture(params=SHAPES)
def pair(request, tmp_path):
    """A model of ours, and timm's of the files that it is exported to."""
    ours = randomized(zoo.create_model("vit_tiny_patch16_224", seed=0, **SMALL | SHAPES[request.param]))
    zoo.export(ours, tmp_path / "model", format="timm")
    return ours, timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()


X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_features_and_head_are_timms(pair) -> None:
    ours, theirs = pair
    hidden = ours.forward_features(X)
    assert error(hidden, theirs.forward_features(X)) < 1e-5
    for pre_logits in (False, True):
        reference = theirs.forward_head(theirs.forward_features(X), pre_logits=pre_logits)
        assert error(ours.forward_head(hidden, pre_logits=pre_logits), reference) < 1e-5
    assert torch.equal(ours.forward_head(hidden), ours(X))
    assert (ours.num_features, ours.head_hidden_size) == (theirs.num_features, theirs.head_hidden_size)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(indices=2),
        dict(indices=[0, -1], output_fmt="NLC"),
        dict(indices=[1], norm=True, return_prefix_tokens=True),
        dict(indices=[0, 1], stop_early=True),
        dict(indices=1, intermediates_only=True),
    ],
)
def test_intermediates_are_timms(pair, options: dict) -> None:
    ours, theirs = (model.forward_intermediates(X, **options) for model in pair)
    if not options.get("intermediates_only"):
        assert error(ours[0], theirs[0]) < 1e-5
        ours, theirs = ours[1], theirs[1]
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(one, other, strict=True) if isinstance(other, tuple) else [(one, other)]:
            assert error(a, b) < 1e-5


def test_descriptions_are_timms(pair) -> None:
    ours, theirs = pair
    assert ours.feature_info == theirs.feature_info and ours.num_classes == theirs.num_classes == 5
    of_ours, of_theirs = ours.get_classifier(), theirs.get_classifier()
    if not isinstance(of_ours, tuple):
        of_ours, of_theirs = (of_ours,), (of_theirs,)
    assert [layer.weight.shape for layer in of_ours] == [layer.weight.shape for layer in of_theirs]
    names = {"cls": "cls_token", "dist": "dist_token", "registers": "reg_token", "positions": "pos_embed"}
    found = {names[name.removeprefix("patches.")] for name in ours.no_weight_decay() if name.startswith("patches.")}
    assert found == set(theirs.no_weight_decay()) & {name for name, _ in theirs.named_parameters()}


@torch.no_grad()
def test_reset_classifier_is_timms(pair) -> None:
    ours, theirs = pair
    for model in pair:
        model.reset_classifier(0)
    assert error(ours(X), theirs(X)) < 1e-5 and ours.num_classes == theirs.num_classes == 0
    assert isinstance(ours.get_classifier(), torch.nn.Identity)
    for model in pair:
        model.reset_classifier(7)
    assert ours(X).shape == theirs(X).shape == (2, 7) and ours.num_classes == 7


def test_reset_classifier_changes_the_pooling() -> None:
    model = randomized(zoo.create_model("vit_tiny_patch16_224", seed=0, **SMALL))
    model.reset_classifier(0, global_pool="avg")
    with torch.no_grad():
        assert torch.allclose(model(X), model.encode(X)[:, 1:].mean(1), atol=1e-6)
    for pool in ("map", "", "max"):
        with pytest.raises(ValueError, match="pool"):
            model.reset_classifier(3, global_pool=pool)
    with pytest.raises(ValueError, match="no choice of pooling"):
        zoo.create_model("wav2vec2_tiny", depth=1, seed=0).reset_classifier(3, global_pool="avg")


@pytest.mark.parametrize("family", ROWS)
def test_every_family_has_features_a_head_and_its_decay(family: str) -> None:
    row = ROWS[family]
    model = zoo.create_model(row.variant, seed=0, **row.small).eval()
    batch = row.batch()
    with torch.no_grad():
        if family != "clip_text":  # its head takes the position of the pooled token
            assert torch.equal(model.forward_head(model.forward_features(**batch)), model(**batch))
    model.set_grad_checkpointing()
    assert model.blocks.checkpointing
    model.set_grad_checkpointing(enable=False)
    assert not model.blocks.checkpointing
    decayed = {id(p) for group in param_groups(model, 1.0, 0.1) if group["weight_decay"] for p in group["params"]}
    plain = {name for name, p in model.named_parameters() if id(p) not in decayed}
    vectors = {name for name, p in model.named_parameters() if p.ndim < 2}
    assert plain == {name for name in model.no_weight_decay() if name in dict(model.named_parameters())} | vectors


def test_pre_logits_of_a_text_head_count_real_tokens_only() -> None:
    model = zoo.create_model("bert_tiny", depth=1, head="classify", num_classes=3, pool="mean", pooler=None, seed=0)
    batch = {"input_ids": torch.randint(5, 50, (2, 6)), "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2])}
    model.eval()
    with torch.no_grad():
        hidden = model.forward_features(**batch)
        features = model.forward_head(hidden, pre_logits=True, keep=batch["attention_mask"])
        assert torch.allclose(features[1], hidden[1, :4].mean(0), atol=1e-6)
        assert torch.equal(model.get_classifier()(features), model(**batch))


def test_a_head_on_all_layers_is_refused() -> None:
    model = zoo.create_model("wav2vec2_tiny", head="classify", layer_sum=True, depth=1, seed=0)
    with pytest.raises(ValueError, match="all layers"):
        model.forward_head(torch.zeros(1, 3, 192))


def test_indices_that_do_not_exist() -> None:
    assert take_indices(2, 5) == [3, 4] and take_indices([-1, 0], 5) == [4, 0]
    for wrong in (0, 6, [5], [-6]):
        with pytest.raises(ValueError, match="indices="):
            take_indices(wrong, 5)


# --- preprocessing ------------------------------------------------------------------------------------------------

PROCESSORS = {
    "crop": dict(resize_to=(36, 36), mean=(0.5,), std=(0.5,)),
    "squash": dict(fit="squash", interpolation="bilinear"),
    "border": dict(fit="longest"),
    "gray": dict(channels=1, mean=(0.4,), std=(0.3,)),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(50, 40), (40, 61), (32, 32)])
def test_pixels_of_timms_transform_are_ours(name: str, size: tuple[int, int]) -> None:
    """Equal to 1e-6: both resize with Pillow."""
    channels = PROCESSORS[name].get("channels", 3)
    model = zoo.create_model("vit_tiny_patch16_224", seed=0, in_chans=channels, **SMALL)
    model.preprocess = ImageProcessor(size=(32, 32), **PROCESSORS[name])
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    ours = model.preprocess(image)["pixel_values"][0]
    config = zoo.resolve_data_config(model)
    assert config == timm.data.resolve_data_config({}, model=model) == timm.data.resolve_model_data_config(model)
    assert len(config["mean"]) == len(config["std"]) == channels == config["input_size"][0]
    image = image.convert("L") if channels == 1 else image
    assert torch.allclose(timm.data.create_transform(**config)(image), ours, atol=1e-6)
    assert model.default_cfg == model.pretrained_cfg and model.pretrained_cfg["num_classes"] == 5


def test_preprocessing_that_timm_cannot_express_is_refused() -> None:
    model = zoo.create_model("vit_tiny_patch16_224", seed=0, **SMALL)
    model.preprocess = ImageProcessor(size=(32, 32), fit="none")
    for ask in (lambda: zoo.resolve_data_config(model), lambda: timm.data.resolve_data_config({}, model=model)):
        with pytest.raises(ValueError, match="cannot express"):
            ask()
    with pytest.raises(ValueError, match="Bert has no image preprocessing"):
        zoo.resolve_data_config(zoo.create_model("bert_tiny", depth=1, seed=0))
    clip = zoo.contrast(image=zoo.create_model("vit_cifar_tiny", depth=1, seed=0), text="bert_tiny", seed=0)
    assert zoo.resolve_data_config(clip)["input_size"] == (3, 32, 32)
