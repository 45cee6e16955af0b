"""Folders as people download them: names and config keys of the most downloaded repositories, at tiny width.

They differ from what today's transformers and timm write: older spellings, keys that are left out, tensors that the
bare model does not use.
"""

import json

import pytest
import torch
from peers import answer, error, pixels
from safetensors.torch import save_file

import zoo
from zoo.checkpoints.load import describe
from zoo.models.mapping.tensors import export_tensors
from zoo.models.registry import build, family

D, F, C = 32, 128, 5  # width, MLP width, classes

LAYER = {
    "attention.attention.query": (D, D), "attention.attention.key": (D, D), "attention.attention.value": (D, D),
    "attention.output.dense": (D, D),
}  # fmt: skip
VIT_LAYER = LAYER | {
    "intermediate.dense": (F, D), "output.dense": (D, F), "layernorm_before": (D,), "layernorm_after": (D,),
}  # fmt: skip
DINO_LAYER = LAYER | {"mlp.fc1": (F, D), "mlp.fc2": (D, F), "norm1": (D,), "norm2": (D,)}


def with_bias(modules):
    both = {f"{name}.weight": shape for name, shape in modules.items()}
    return both | {f"{name}.bias": shape[:1] for name, shape in modules.items()}


def vit_keys(grid, patch, prefix="", distilled=False, pooler=False):
    keys = {"embeddings.cls_token": (1, 1, D), "embeddings.position_embeddings": (1, 1 + distilled + grid**2, D)}
    keys |= {"embeddings.distillation_token": (1, 1, D)} if distilled else {}
    modules = {"embeddings.patch_embeddings.projection": (D, 3, patch, patch), "layernorm": (D,)}
    modules |= {"pooler.dense": (D, D)} if pooler else {}
    modules |= {f"encoder.layer.{n}.{name}": shape for n in range(2) for name, shape in VIT_LAYER.items()}
    return {prefix + name: shape for name, shape in (keys | with_bias(modules)).items()}


def dino_keys(grid, patch, registers=0):
    keys = {"embeddings.cls_token": (1, 1, D), "embeddings.mask_token": (1, D)}
    keys |= {"embeddings.position_embeddings": (1, 1 + grid**2, D)}
    keys |= {"embeddings.register_tokens": (1, registers, D)} if registers else {}
    keys |= {f"encoder.layer.{n}.layer_scale{i}.lambda1": (D,) for n in range(2) for i in (1, 2)}
    modules = {"embeddings.patch_embeddings.projection": (D, 3, patch, patch), "layernorm": (D,)}
    modules |= {f"encoder.layer.{n}.{name}": shape for n in range(2) for name, shape in DINO_LAYER.items()}
    return keys | with_bias(modules)


def timm_keys(rows, patch, registers=0, distilled=False, scale=False, head=True):
    keys = {"cls_token": (1, 1, D), "pos_embed": (1, rows, D)}
    keys |= {"reg_token": (1, registers, D)} if registers else {}
    keys |= {"dist_token": (1, 1, D)} if distilled else {}
    modules = {"patch_embed.proj": (D, 3, patch, patch), "norm": (D,)}
    modules |= {"head": (C, D)} if head else {}
    modules |= {"head_dist": (C, D)} if distilled else {}
    layer = {"norm1": (D,), "attn.qkv": (3 * D, D), "attn.proj": (D, D), "norm2": (D,), "mlp.fc1": (F, D)}
    layer["mlp.fc2"] = (D, F)
    for n in range(2):
        modules |= {f"blocks.{n}.{name}": shape for name, shape in layer.items()}
        keys |= {f"blocks.{n}.ls{i}.gamma": (D,) for i in (1, 2)} if scale else {}
    return keys | with_bias(modules)


LABELS = {str(i): f"a long name, number {i}" for i in range(C)}
CONFIG = {
    "attention_probs_dropout_prob": 0.0, "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": D,
    "initializer_range": 0.02, "num_attention_heads": 4, "num_channels": 3, "num_hidden_layers": 2,
    "torch_dtype": "float32",
}  # fmt: skip
OLD = CONFIG | {"image_size": 224, "patch_size": 16, "intermediate_size": F, "layer_norm_eps": 1e-12}
NAMED = {"id2label": LABELS, "label2id": {label: int(i) for i, label in LABELS.items()}}
DINO = CONFIG | {
    "apply_layernorm": True, "drop_path_rate": 0.0, "image_size": 70, "layer_norm_eps": 1e-6, "layerscale_value": 1.0,
    "mlp_ratio": 4, "out_features": ["stage2"], "out_indices": [2], "patch_size": 14, "qkv_bias": True,
    "reshape_hidden_states": True, "stage_names": ["stem", "stage1", "stage2"], "use_swiglu_ffn": False,
}  # fmt: skip
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
DEIT = IMAGENET | {
    "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": 256,
    "feature_extractor_type": "DeiTFeatureExtractor",
}  # fmt: skip
BIT = IMAGENET | {
    "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True,
    "do_rescale": True, "do_resize": True, "image_processor_type": "BitImageProcessor", "resample": 3,
    "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 256},
}  # fmt: skip


def pretrained(size, mean, crop_pct, classes, **more):
    return {
        "tag": "some", "custom_load": False, "input_size": [3, size, size], "fixed_input_size": True,
        "interpolation": "bicubic", "crop_pct": crop_pct, "crop_mode": "center", "mean": mean, "std": mean,
        "num_classes": classes, "pool_size": None, "first_conv": "patch_embed.proj", "classifier": "head", **more,
    }  # fmt: skip


def timm_config(architecture, size, mean, crop_pct, classes):
    return {
        "architecture": architecture, "num_classes": classes, "num_features": D, "global_pool": "token",
        "model_args": {"embed_dim": D, "depth": 2, "num_heads": 4},
        "pretrained_cfg": pretrained(size, mean, crop_pct, classes),
    }  # fmt: skip


# repository: (config.json, preprocessor_config.json, tensors, the report's dropped)
REPOSITORIES = {
    "google/vit-base-patch16-224": (
        OLD | NAMED | {"architectures": ["ViTForImageClassification"], "model_type": "vit"},
        HALF | {"do_normalize": True, "do_resize": True, "size": 224, "resample": 2},
        vit_keys(14, 16, "vit.") | with_bias({"classifier": (C, D)}),
        [],
    ),
    "google/vit-base-patch16-224-in21k": (
        OLD | {"architectures": ["ViTModel"], "model_type": "vit"},
        HALF | {"do_normalize": True, "do_resize": True, "image_processor_type": "ViTFeatureExtractor", "size": 224},
        vit_keys(14, 16, pooler=True),
        ["pooler.dense.bias", "pooler.dense.weight"],
    ),
    "facebook/deit-base-patch16-224": (
        OLD | NAMED | {"architectures": ["ViTForImageClassification"], "model_type": "vit"},
        DEIT,
        vit_keys(14, 16, "vit.") | with_bias({"classifier": (C, D)}),
        [],
    ),
    "facebook/deit-base-distilled-patch16-224": (
        OLD | NAMED | {"architectures": ["DeiTForImageClassificationWithTeacher"], "model_type": "deit"},
        DEIT,
        vit_keys(14, 16, "deit.", distilled=True)
        | with_bias({"cls_classifier": (C, D), "distillation_classifier": (C, D)}),
        [],
    ),
    "facebook/dinov2-base": (
        DINO | {"architectures": ["Dinov2Model"], "model_type": "dinov2"},
        BIT,
        dino_keys(5, 14),
        ["embeddings.mask_token"],
    ),
    "facebook/dinov2-with-registers-base": (
        DINO | {
            "architectures": ["Dinov2WithRegistersModel"], "model_type": "dinov2_with_registers",
            "interpolate_antialias": True, "interpolate_offset": 0.0, "num_register_tokens": 4,
        },
        BIT,
        dino_keys(5, 14, registers=4),
        ["embeddings.mask_token"],
    ),
    "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k": (
        timm_config("vit_base_patch16_224", 224, [0.5] * 3, 0.9, C), None, timm_keys(197, 16), [],
    ),
    "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k": (
        timm_config("vit_tiny_patch16_224", 224, [0.5] * 3, 0.9, C), None, timm_keys(197, 16), [],
    ),
    "timm/deit_base_distilled_patch16_224.fb_in1k": (
        timm_config("deit_base_distilled_patch16_224", 224, [0.485, 0.456, 0.406], 0.9, C),
        None,
        timm_keys(198, 16, distilled=True),
        [],
    ),
    "timm/deit3_base_patch16_224.fb_in22k_ft_in1k": (
        timm_config("deit3_base_patch16_224", 224, [0.485, 0.456, 0.406], 1.0, C),
        None,
        timm_keys(196, 16, scale=True),
        [],
    ),
    "timm/vit_small_patch14_dinov2.lvd142m": (
        timm_config("vit_small_patch14_dinov2", 70, [0.485, 0.456, 0.406], 1.0, 0),
        None,
        timm_keys(26, 14, scale=True, head=False),
        [],
    ),
    "timm/vit_small_patch14_reg4_dinov2.lvd142m": (
        timm_config("vit_small_patch14_reg4_dinov2", 70, [0.485, 0.456, 0.406], 1.0, 0),
        None,
        timm_keys(25, 14, registers=4, scale=True, head=False),
        [],
    ),
}  # fmt: skip


def folder_of(repository, path, save=save_file, name="model.safetensors"):
    config, processor, shapes, _ = REPOSITORIES[repository]
    draw = torch.Generator().manual_seed(0)
    tensors = {key: torch.randn(shape, generator=draw) * 0.15 for key, shape in shapes.items()}
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    if processor:
        (path / "preprocessor_config.json").write_text(json.dumps(processor))
    save(tensors, path / name)
    return path


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_published_folders_load_and_agree_with_their_library(tmp_path, repository):
    folder = folder_of(repository, tmp_path / "repo", lambda t, file: save_file(t, file, metadata={"format": "pt"}))
    result, model = zoo.verify(folder), zoo.load(folder)
    assert result.ok, result
    report = model.load_report
    assert sorted(report.dropped) == REPOSITORIES[repository][3] and not (report.initialized or report.resampled)
    assert model.labels == (list(LABELS.values()) if "id2label" in REPOSITORIES[repository][0] else None)
    assert model.preprocess.size == model.patches.image_size
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_published_pickles_load_too(tmp_path):
    one = folder_of("google/vit-base-patch16-224", tmp_path / "one")
    other = folder_of("google/vit-base-patch16-224", tmp_path / "other", torch.save, "pytorch_model.bin")
    x = pixels((224, 224), rows=1)
    assert torch.equal(answer(zoo.load(one), x), answer(zoo.load(other), x))


def test_fine_tuning_from_a_bare_model(tmp_path):
    model = zoo.load(folder_of("google/vit-base-patch16-224-in21k", tmp_path / "repo"), labels=["cat", "dog"])
    assert model.config.num_classes == 2 and model.labels == ["cat", "dog"]
    assert model.load_report.initialized == ["head.proj.weight", "head.proj.bias"]
    assert len(model.load_report.dropped) == 2


def test_dinov2_at_the_size_its_processor_makes(tmp_path):
    folder = folder_of("facebook/dinov2-with-registers-base", tmp_path / "repo")
    import transformers

    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    ours = zoo.load(folder, image_size=224)
    x = pixels((224, 224), rows=1)
    assert error(answer(ours, x), answer(theirs, x)) <= 1e-5
    assert ours.preprocess.size == (224, 224) and ours.preprocess.resize_to == (256, 256)
    assert ours.load_report.resampled == ["patches.positions"]


@pytest.mark.parametrize("name", [name for name in family("vit").variants if not name.startswith("vit_cifar")])
def test_a_name_of_timms_means_the_same_model(tmp_path, name):
    """The config that timm's hub folders have, without `model_args`: everything comes from the name."""
    config = family("vit").config(**family("vit").variants[name])
    size, classes = config.image_size, config.num_classes if config.head == "classify" else 0
    values = {"architecture": name, "num_classes": classes, "pretrained_cfg": pretrained(size, [0.5] * 3, 0.9, classes)}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert describe(tmp_path).config == config


@pytest.mark.parametrize("name", [name for name in family("vit").variants if not name.startswith("vit_cifar")])
def test_a_name_of_timms_has_timms_tensors(name):
    import timm

    found = family("vit")
    config = found.config(**found.variants[name]).replace(depth=1)
    classes = config.num_classes if config.head == "classify" else 0
    with torch.device("meta"):
        theirs = timm.create_model(name, depth=1, num_classes=classes)
    ours = export_tensors(found.mappings["timm"].table, build(found, config).state_dict())
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    assert {key: tensor.shape for key, tensor in ours.items()} == shapes
