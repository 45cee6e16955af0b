"""The same files through us and through timm or transformers."""

from copy import deepcopy
from functools import cache

import pytest
import torch
from peers import answer, error, pixels, timm_folder, transformers_folder
from table_swaps import check_swaps

import zoo

TIMM = {
    "vit": ("vit_base_patch16_224", dict(img_size=32, patch_size=8)),
    "vit non-square": ("vit_base_patch16_224", dict(img_size=(16, 40), patch_size=8)),
    "vit mean pooling": ("vit_base_patch16_224", dict(img_size=(16, 40), patch_size=8, global_pool="avg")),
    "vit mean pooling, norm before": (
        "vit_base_patch16_224", dict(img_size=32, patch_size=8, global_pool="avg", fc_norm=False)
    ),
    "vit without class token": (
        "vit_base_patch16_224", dict(img_size=32, patch_size=8, global_pool="avg", class_token=False)
    ),
    "vit pooled features": ("vit_base_patch16_224", dict(img_size=32, patch_size=8, num_classes=0)),
    "vit hidden states": ("vit_base_patch16_224", dict(img_size=32, patch_size=8, num_classes=0, global_pool="")),
    "vit positions for patches only": ("vit_base_patch16_224", dict(img_size=32, patch_size=8, no_embed_class=True)),
    "vit registers with positions": ("vit_base_patch16_224", dict(img_size=32, patch_size=8, reg_tokens=3)),
    "vit other options": (
        "vit_base_patch16_224",
        dict(img_size=16, patch_size=8, in_chans=1, qkv_bias=False, mlp_ratio=3, act_layer="quick_gelu", init_values=1),
    ),
    "deit": ("deit_tiny_patch16_224", dict(img_size=32, patch_size=8)),
    "deit distilled": ("deit_tiny_distilled_patch16_224", dict(img_size=(24, 32), patch_size=8)),
    "deit distilled pooled": ("deit_tiny_distilled_patch16_224", dict(img_size=32, patch_size=8, num_classes=0)),
    "deit3": ("deit3_small_patch16_224", dict(img_size=32, patch_size=8)),
    "dinov2": ("vit_small_patch14_dinov2", dict(img_size=(28, 42), num_classes=0)),
    "dinov2 registers": ("vit_small_patch14_reg4_dinov2", dict(img_size=28, num_classes=0)),
    "dinov2 giant": ("vit_giant_patch14_reg4_dinov2", dict(img_size=28)),
}  # fmt: skip

TRANSFORMERS = {
    "vit": ("ViTForImageClassification", {}),
    "vit non-square": ("ViTForImageClassification", dict(image_size=[16, 40])),
    "vit other options": (
        "ViTForImageClassification", dict(qkv_bias=False, hidden_act="gelu_new", num_channels=1, layer_norm_eps=1e-5)
    ),
    "vit hidden states": ("ViTModel", {}),
    "deit": ("DeiTForImageClassificationWithTeacher", dict(image_size=[24, 32])),
    "deit one head": ("DeiTForImageClassification", {}),
    "deit hidden states": ("DeiTModel", {}),
    "dinov2": ("Dinov2ForImageClassification", {}),
    "dinov2 hidden states": ("Dinov2Model", {}),
    "dinov2 swiglu": ("Dinov2ForImageClassification", dict(use_swiglu_ffn=True, mlp_ratio=3)),
    "dinov2 registers": ("Dinov2WithRegistersForImageClassification", dict(num_register_tokens=3)),
    "dinov2 registers hidden states": ("Dinov2WithRegistersModel", {}),
    "dinov2 registers swiglu": ("Dinov2WithRegistersForImageClassification", dict(use_swiglu_ffn=True, mlp_ratio=4)),
}  # fmt: skip
EXACT = [("timm", name) for name in TIMM] + [("transformers", name) for name in TRANSFORMERS if "dino" in name]


def peer(folder, library, name, **options):
    table, make = (TIMM, timm_folder) if library == "timm" else (TRANSFORMERS, transformers_folder)
    return make(folder, table[name][0], **table[name][1] | options)


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """(library, name) -> (a folder, their model), each made once: tests leave both as they are."""

    @cache
    def make(library, name):
        folder = tmp_path_factory.mktemp(library)
        return folder, peer(folder, library, name)

    return make


ALL = [("timm", name) for name in TIMM] + [("transformers", name) for name in TRANSFORMERS]


@pytest.mark.parametrize("library, name", ALL)
def test_same_numbers_from_the_same_files(peers, library, name):
    folder, theirs = peers(library, name)
    ours = zoo.load(folder)
    x = pixels(ours.patches.image_size, ours.config.in_chans)
    assert error(answer(ours, x), answer(theirs, x)) <= 1e-5
    assert not (ours.load_report.initialized or ours.load_report.resampled or ours.training)
    if (library, name) in EXACT:
        x, ours = x.double(), zoo.load(folder, dtype=torch.float64)
        assert error(answer(ours, x), answer(deepcopy(theirs).double(), x)) <= 1e-9


@pytest.mark.parametrize("library, name", ALL)
def test_round_trip_through_the_others_format(tmp_path, peers, library, name):
    """Ours, exported: their loader runs on the folder and gives our numbers, and so do we."""
    folder, _ = peers(library, name)
    ours = zoo.load(folder)
    zoo.export(ours, tmp_path, library)
    result = zoo.verify(tmp_path)
    assert result.ok, result
    again = zoo.load(tmp_path)
    x = pixels(ours.patches.image_size, ours.config.in_chans)
    if ours.config.head == "pool" and library == "transformers":
        ours = zoo.load(folder, head=None)
    assert error(answer(again, x), answer(ours, x)) <= 1e-6


@pytest.mark.parametrize("library, name, eps", [
    ("timm", "vit", 1e-6), ("transformers", "vit", 1e-12), ("transformers", "deit", 1e-12),
    ("transformers", "dinov2", 1e-6),
])  # fmt: skip
def test_eps_shows_where_activations_are_small(tmp_path, library, name, eps):
    theirs = peer(tmp_path, library, name)
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if "embed" in key or "token" in key:
                parameter.mul_(1e-3)
    (theirs.save_pretrained if library == "transformers" else _save_timm(theirs))(tmp_path)
    ours = zoo.load(tmp_path)
    x = pixels(ours.patches.image_size)
    assert ours.config.norm_eps == eps
    assert error(answer(ours, x), answer(theirs, x)) <= 1e-5
    assert error(answer(zoo.load(tmp_path, norm_eps=10 * eps if eps > 1e-9 else 1e-6), x), answer(theirs, x)) > 1e-4


def _save_timm(model):
    from timm.models import save_for_hf

    return lambda folder: save_for_hf(model, folder, safe_serialization=True)


@pytest.mark.parametrize("library, name", [
    ("timm", "deit distilled"), ("timm", "dinov2 giant"), ("timm", "vit mean pooling"),
    ("transformers", "deit"), ("transformers", "dinov2 registers swiglu"),
])  # fmt: skip
def test_swapping_any_two_lines_of_a_table_is_caught(tmp_path, library, name):
    theirs = peer(tmp_path, library, name, **{"depth" if library == "timm" else "num_hidden_layers": 1})
    x = pixels(zoo.load(tmp_path).patches.image_size, rows=1)
    check_swaps(tmp_path, lambda model: answer(model, x), answer(theirs, x), 11)
