import errno
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peers import answer, error, pixels, randomize
from PIL import Image
from safetensors import safe_open

import zoo
from zoo.checkpoints.formats import native
from zoo.checkpoints.model_card import Training, model_card
from zoo.preprocessing.image import ImageProcessor

TINY = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "heads": 4, "num_classes": 7}
FISH = [f"fish {i}" for i in range(7)]


def tiny(name="vit_base_patch16_224", **changes):
    model = randomize(zoo.create_model(name, seed=0, **TINY | changes))
    preprocess = ImageProcessor(size=(32, 32), fit="squash", interpolation="bilinear")
    model.preprocess = preprocess.fitted(model.patches.image_size, model.config.in_chans)
    model.labels = FISH[: model.config.num_classes] if model.config.head == "classify" else None
    return model


def picture(height=50, width=64):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


VARIANTS = {
    "vit": {},
    "non-square": {"image_size": (16, 40)},
    "distilled": {"name": "deit_tiny_distilled_patch16_224"},
    "conv stem, mean pooling": {"name": "vit_cifar_tiny", "patch_size": 4},
    "grouped heads, gated": {"kv_heads": 2, "head_dim": 6, "gated_mlp": True, "act": "silu", "mlp_dim": 40},
    "performer": {"attention": "performer"},
    "local and softmax": {"attention": [{"kind": "local", "window": 5}, "softmax"]},
    "features": {"head": "pool"},
    "hidden states": {"head": None},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_and_loaded_is_the_same_model(tmp_path, variant):
    model = tiny(**VARIANTS[variant])
    again = zoo.load(zoo.save(model, tmp_path / "model"))
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for rows in (1, 2, 5):
        x = pixels(model.patches.image_size, rows=rows)
        assert torch.equal(again(x), model(x))
    assert (again.config, again.labels, again.preprocess) == (model.config, model.labels, model.preprocess)
    assert again.variant == model.variant and again.load_report.plain


def test_the_files_of_a_folder(tmp_path):
    model = tiny()
    zoo.save(model, tmp_path / "model")
    assert sorted(os.listdir(tmp_path / "model")) == ["config.json", "golden.safetensors", "model.safetensors"]
    values = json.loads((tmp_path / "model" / "config.json").read_text())
    assert list(values) == ["library_name", "format", "family", "variant", "config", "preprocess", "labels", "tied"]
    assert values["library_name"] == "zoo" and values["config"]["width"] == 32 and values["tied"] == {}
    with safe_open(tmp_path / "model" / "golden.safetensors", "pt") as golden:
        assert torch.equal(model(golden.get_tensor("input.pixel_values")), golden.get_tensor("output"))


def test_tied_weights_are_in_the_file_once(tmp_path):
    model = zoo.create_model("llama_nano", seed=0, width=32, depth=1, heads=2)
    zoo.save(model, tmp_path / "model")
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(model.state_dict()) - {"head.proj.weight"}
    assert (again := zoo.load(tmp_path / "model")).head.proj.weight is again.tokens.word.weight


def test_a_model_in_training_is_saved_as_it_is(tmp_path):
    model = tiny(drop_path=0.5).train()
    model.blocks[0].eval()
    zoo.save(model, tmp_path / "model")
    assert model.training and not model.blocks[0].training and model.blocks[1].training
    assert zoo.verify(tmp_path / "model").difference == 0


def test_a_full_disk_leaves_the_old_model_whole(tmp_path, monkeypatch):
    folder = zoo.save(tiny(), tmp_path / "model")
    before = {name: (folder / name).read_bytes() for name in os.listdir(folder)}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("zoo.checkpoints.save.save_file", full)
    monkeypatch.setattr("zoo.checkpoints.weight_files.write_tensors", full)
    for write in (zoo.save, zoo.export):
        with pytest.raises(OSError, match="No space"):
            write(tiny(width=64), folder)
    assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == before
    assert os.listdir(tmp_path) == ["model"]


def test_saving_again_replaces_what_a_former_save_left(tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("notes.txt", "model.safetensors.index.json", "pytorch_model.bin"):
        (tmp_path / "model" / name).write_text("old")
    zoo.save(tiny(), tmp_path / "model")
    assert sorted(os.listdir(tmp_path / "model")) == [
        "config.json",
        "golden.safetensors",
        "model.safetensors",
        "notes.txt",
    ]
    zoo.export(tiny(), tmp_path / "model", "timm")
    assert sorted(os.listdir(tmp_path / "model")) == ["config.json", "model.safetensors", "notes.txt"]


def test_what_cannot_be_loaded_again_is_not_saved(tmp_path):
    model = tiny()
    model.blocks[0].mlp.up = torch.nn.Sequential(model.blocks[0].mlp.up)
    with pytest.raises(ValueError, match=r"'blocks\.0\.mlp\.up\S+' does not belong to a vit with this config"):
        zoo.save(model, tmp_path / "model")
    with pytest.raises(ValueError, match=r"expected a zoo\.Model, got a Linear"):
        zoo.save(torch.nn.Linear(2, 2), tmp_path / "model")
    model = tiny()
    model.labels = ["cat"]
    with pytest.raises(ValueError, match=r"model\.labels has 1 names for 7 classes"):
        zoo.save(model, tmp_path / "model")
    with pytest.raises(ValueError, match="has no values"):
        zoo.save(tiny().to("meta"), tmp_path / "model")
    assert os.listdir(tmp_path) == []


# --- export -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [
    {}, {"image_size": (16, 40)}, {"num_classes": 3, "in_chans": 1}, {"mlp_dim": 33, "act": "gelu_tanh"},
    {"pool": "mean", "pool_norm": True}, {"pool": "mean", "class_token": False, "qkv_bias": False},
    {"head": "pool"}, {"head": None}, {"name": "deit_tiny_distilled_patch16_224"},
    {"name": "vit_small_patch14_reg4_dinov2", "num_classes": 7}, {"registers": 2, "position_prefix": 1},
    {"registers": 2, "position_prefix": 3}, {"gated_mlp": True, "act": "silu", "mlp_dim": 48}, {"layer_scale": 0.1},
], ids=str)  # fmt: skip
def test_timm_runs_what_is_exported(tmp_path, changes):
    import timm

    model = tiny(**changes)
    model.preprocess = model.labels = None
    zoo.export(model, tmp_path / "timm", "timm")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    x = pixels(model.patches.image_size, model.config.in_chans)
    assert error(answer(theirs, x), model(x)) <= 1e-5
    assert error(zoo.load(tmp_path / "timm")(x), model(x)) <= 1e-6


def test_timm_gets_preprocessing_and_labels(tmp_path):
    import timm
    from timm.data import create_transform, resolve_model_data_config

    model = tiny(norm_eps=1e-6)
    zoo.export(model, tmp_path / "timm", "timm")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(theirs))
    x = transform(picture())[None]
    assert torch.allclose(model.preprocess(picture())["pixel_values"], x, atol=2e-6)
    assert theirs.pretrained_cfg["label_names"] == FISH and zoo.load(tmp_path / "timm").labels == FISH
    assert theirs.pretrained_cfg["architecture"] == "vit_base_patch16_224"


@pytest.mark.parametrize("changes", [
    {}, {"image_size": (16, 40)}, {"norm_eps": 1e-12, "num_classes": 3, "in_chans": 1},
    {"mlp_dim": 33, "qkv_bias": False},
    {"name": "deit_tiny_distilled_patch16_224"}, {"distilled": "token"}, {"head": None}, {"head": "pool"},
    {"layer_scale": 0.1, "pool": "cls_mean", "registers": 2}, {"layer_scale": 0.1, "head": None, "position_prefix": 0},
    {"layer_scale": 0.1, "pool": "cls_mean", "gated_mlp": True, "act": "silu", "mlp_dim": 88},
    {"name": "vit_small_patch14_reg4_dinov2", "head": None}, {"position_prefix": 0},
], ids=str)  # fmt: skip
def test_transformers_runs_what_is_exported(tmp_path, changes):
    import transformers

    model = tiny(**changes)
    folder = zoo.export(model, tmp_path / "hf", "transformers")
    auto = transformers.AutoModelForImageClassification if model.config.head == "classify" else transformers.AutoModel
    if "DeiTForImageClassificationWithTeacher" in (folder / "config.json").read_text():
        auto = transformers.DeiTForImageClassificationWithTeacher
    theirs = auto.from_pretrained(folder).eval()
    x = pixels(model.patches.image_size, model.config.in_chans)
    ours = model.encode(x) if model.config.head == "pool" else model(x)
    assert error(answer(theirs, x), ours) <= 1e-5
    assert error(answer(zoo.load(folder), x), ours) <= 1e-6


@pytest.mark.parametrize("resizing", [
    {"fit": "squash"}, {"resize_to": (40, 40)}, {"fit": "squash", "resize_to": (40, 36)},
])  # fmt: skip
def test_transformers_pipeline_says_what_predict_says(tmp_path, resizing):
    from transformers import pipeline

    model = tiny()
    model.preprocess = ImageProcessor(size=(32, 32), backend="tensor", interpolation="bilinear", **resizing)
    folder = zoo.export(model, tmp_path / "hf")
    theirs = pipeline("image-classification", str(folder))(picture(), top_k=7)
    for ours in (zoo.predict(model, picture(), top_k=7), zoo.predict(zoo.load(folder), picture(), top_k=7)):
        assert [answer["label"] for answer in theirs] == [label for label, _ in ours]
        assert max(abs(answer["score"] - p) for answer, (_, p) in zip(theirs, ours, strict=True)) < 1e-5


def test_configs_that_a_library_cannot_express_raise(tmp_path):
    for format, changes, named in [
        ("transformers", {"attention": "performer"}, "attention='performer'"),
        ("timm", {"attention": "performer"}, "attention='performer'"),
        ("timm", {"stem": "conv", "pool": "mean", "class_token": False}, "stem='conv'"),
        ("timm", {"kv_heads": 2}, "kv_heads=2"),
        ("timm", {"norm_eps": 1e-12}, "norm_eps=1e-12"),
        ("timm", {"pool": "cls_mean"}, "pool='cls_mean'"),
        ("timm", {"distilled": "token"}, "distilled='token'"),
        ("transformers", {"layer_scale": 0.1}, r"layer_scale=0\.1"),
        ("transformers", {"pool": "mean"}, "pool='mean'"),
        (
            "transformers",
            {"gated_mlp": True, "act": "silu", "layer_scale": 0.1, "head": None, "mlp_dim": 90},
            "mlp_dim=90",
        ),
        ("transformers", {"head_dim": 4}, "head_dim=4"),
    ]:
        with pytest.raises(ValueError, match=f"cannot express .*{named}"):
            zoo.export(tiny(**changes), tmp_path / "out", format)
    with pytest.raises(
        ValueError, match=r"cannot be exported to 'tim' \(formats: transformers, timm, onnx\); did you mean 'timm'\?"
    ):
        zoo.export(tiny(), tmp_path / "out", "tim")
    with pytest.raises(ValueError, match="cannot be exported to 'open_clip'"):
        zoo.export(tiny(), tmp_path / "out", "open_clip")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("first, second", [("timm", "transformers"), ("transformers", "timm")])
def test_from_one_library_to_the_other(tmp_path, first, second):
    model = tiny(layer_scale=0.1, registers=2, head=None)
    zoo.export(model, tmp_path / "first", first)
    zoo.export(zoo.load(tmp_path / "first"), tmp_path / "second", second)
    assert zoo.verify(tmp_path / "second").ok
    assert error(zoo.load(tmp_path / "second")(pixels()), model(pixels())) <= 1e-6


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["zoo", "transformers", "timm"])
def test_pushing_to_the_hub(tmp_path, monkeypatch, format):
    calls = {}

    class Api:
        def __init__(self, token=None, **_):
            calls["token"] = token

        def create_repo(self, repo_id, private, exist_ok):
            calls["private"] = private
            return SimpleNamespace(repo_id=f"me/{repo_id}")

        def file_exists(self, *_, **__):
            return False

        def upload_folder(self, repo_id, folder_path, revision, commit_message):
            calls.update(repo_id=repo_id, message=commit_message)
            os.rename(folder_path, tmp_path / "uploaded")
            return f"https://hub/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    model = tiny()
    assert (
        zoo.push_to_hub(model, "fish", format=format, private=True, token="t", message="First") == "https://hub/me/fish"
    )
    assert calls == {"token": "t", "private": True, "repo_id": "me/fish", "message": "First"}
    assert error(zoo.load(tmp_path / "uploaded")(pixels()), model(pixels())) <= 1e-6
    assert "library_name" in (tmp_path / "uploaded" / "README.md").read_text()


def test_the_model_card():
    card = model_card(tiny(), "me/fish")
    assert "library_name: attention-zoo" in card and "pipeline_tag: image-classification" in card
    assert 'model = zoo.load("me/fish")' in card and "| width | 32 |" in card and "fish 3" in card
    assert "pipeline_tag" not in model_card(tiny(head=None), "me/fish")
    assert "local-dir:runs/fish/timm" in model_card(tiny(), "runs/fish/timm", "timm")


@pytest.mark.parametrize(("name", "tag", "use"), [
    ("clip_tiny", "zero-shot-image-classification", '.logits("image", "text")'),
    ("blip_nano", "image-text-to-text", "zoo.generate(model, text="),
    ("llava_nano", "image-text-to-text", "zoo.generate(model, text="),
])  # fmt: skip
def test_the_card_of_a_model_of_images_and_texts_says_what_it_computes(name, tag, use):
    card = model_card(zoo.create_model(name), "me/fish")
    assert f"pipeline_tag: {tag}" in card and use in card


@pytest.mark.parametrize("real", [True, False])
def test_the_card_of_a_run(real):
    training = Training(command="python recipes/x.py lr=1", data="ponds", real=real, source="here", metrics={"r2": 0.5},
                        facts={"seed": 3})  # fmt: skip
    card = model_card(tiny(), "runs/x/model", training=training)
    for text in ("# x\n", "**ponds** (here)", "recipes/x.py lr=1", "| r2 | 0.5 |", "| seed | 3 |",
                 'zoo.load("runs/x/model")'):  # fmt: skip
        assert text in card, text
    assert ("Synthetic data" in card) == (not real)


@pytest.mark.parametrize("name", ["bert_tiny", "clip_tiny", "bart_nano"])
def test_the_description_of_a_model_loads_with_weights_only(name, tmp_path):
    """A .ckpt has it, and checkpoints are loaded without running code."""
    description = native.describe(zoo.create_model(name))
    torch.save(description, tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True) == description
