"""Attention pooling of timm leaves out the class and register tokens, unless pool_include_prefix says otherwise."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from peers import answer, error, pixels, timm_folder
from torch import nn

import zoo

ARCHITECTURES = ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_base_patch16_clip_224"]


def folder(path: Path, architecture: str, **changes: Any) -> nn.Module:
    options = {"img_size": 32, "patch_size": 8} | changes
    theirs = timm_folder(path, architecture, **options)
    values = json.loads((path / "config.json").read_text())
    values["model_args"] = {"embed_dim": 32, "depth": 2, "num_heads": 4} | options
    (path / "config.json").write_text(json.dumps(values))
    return theirs


def same(ours: zoo.Model, theirs: nn.Module) -> bool:
    with torch.no_grad():
        return error(ours(pixels()), answer(theirs, pixels())) <= 1e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("pool", "included"), [("map", True), ("avg", False), ("token", False), ("token", True)])
def test_pooling_that_is_computed(architecture: str, pool: str, included: bool, tmp_path: Path) -> None:
    theirs = folder(tmp_path / "theirs", architecture, global_pool=pool, pool_include_prefix=included)
    ours = zoo.load(tmp_path / "theirs")
    assert same(ours, theirs)
    zoo.export(ours, tmp_path / "ours", format="timm")
    assert same(ours, timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("pool", "included"), [("map", False), ("avg", True)])
def test_pooling_that_is_refused(architecture: str, pool: str, included: bool, tmp_path: Path) -> None:
    folder(tmp_path, architecture, global_pool=pool, pool_include_prefix=included)
    with pytest.raises(zoo.LoadError, match=f"global_pool='{pool}' with pool_include_prefix={included}"):
        zoo.load(tmp_path)


def test_registers_added_to_attention_pooling(tmp_path: Path) -> None:
    folder(tmp_path, "vit_base_patch16_siglip_224", reg_tokens=2)
    with pytest.raises(zoo.LoadError, match="reg_tokens=2"):
        zoo.load(tmp_path)
