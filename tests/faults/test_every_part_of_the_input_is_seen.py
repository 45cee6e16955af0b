"""The patches of every image and audio variant cover its whole input, or the published model leaves out as much."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from recipe_calls import caller

import zoo
from zoo.models.registry import build, family, family_names, find_variant
from zoo.nn.frontends.image import PatchEmbedding
from zoo.training.recipes import audio
from zoo.training.recipes.config import AudioSettings, ClapSettings

call = caller({"ast_audio": AudioSettings, "clap_pairs": ClapSettings})

# (rows or mel bins, columns or frames) that published models leave out. AST has patches of 16 at a step of 10, as in
# its paper; `ast_small` has the grid of `ast_base`. SigLIP has patches of 14 on 384 pixels.
PUBLISHED = {
    "ast_base": (2, 8), "ast_small": (2, 8), "ast_base_speech_commands": (2, 2),
    "siglip_so400m_patch14_384": (6, 6), "vit_so400m_patch14_siglip_384": (6, 6),
}  # fmt: skip
VARIANTS = [variant for name in family_names() for variant in family(name).variants]


def patch_embeddings(model: torch.nn.Module) -> list[PatchEmbedding]:
    return [module for module in model.modules() if isinstance(module, PatchEmbedding)]


def pixels_seen(embedding: PatchEmbedding) -> tuple[int, int]:
    """The size of the input from its start to the end of the last patch."""
    step = embedding.stride or embedding.patch_size
    rows, columns = ((n - 1) * s + p for n, s, p in zip(embedding.grid, step, embedding.patch_size, strict=True))
    return rows, columns


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_patches_of_every_variant_cover_its_input(variant: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find_variant(variant)
        model = build(found, found.config(**found.variants[variant]))
    for embedding in patch_embeddings(model):
        unseen = tuple(a - b for a, b in zip(embedding.image_size, pixels_seen(embedding), strict=True))
        assert unseen == PUBLISHED.get(variant, (0, 0))


def test_each_mel_bin_and_frame_changes_the_scores_of_ast_tiny() -> None:
    model = zoo.create_model("ast_tiny", depth=1, width=16, heads=2, num_classes=3, seed=0).eval()
    x = torch.randn(1, 128, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    model(input_values=x).square().sum().backward()
    assert x.grad is not None and (x.grad.abs().amax(1) > 0).all() and (x.grad.abs().amax(2) > 0).all()


@pytest.mark.parametrize(
    ("frames", "stride", "covered"),
    [(3, 8, 16), (16, 8, 16), (17, 8, 24), (98, 8, 104), (104, 8, 104), (98, [8, 10], 106), (98, [10, 16], 112)],
)
def test_a_recipe_chooses_frames_that_the_patches_cover(frames: int, stride: Any, covered: int) -> None:
    config = SimpleNamespace(patch_size=16, stride=stride)
    assert audio.covered_frames(frames, config) == covered
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.create_model("ast_tiny", depth=1, width=16, heads=2, stride=[8, audio.pair(stride)[1]], max_length=covered)


@pytest.mark.parametrize("recipe", ["ast_audio", "clap_pairs"])
def test_the_audio_recipes_train_without_unseen_frames(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest clip has 98 frames, and patches of 16 at a step of 8 would leave out two."""
    for name, count in (("TRAIN", 40), ("TEST", 10)):
        monkeypatch.setattr(f"zoo.data.synthetic.audio.{name}", count)
    tower = "audio." if recipe == "clap_pairs" else ""
    options = (f"{tower}depth=1", "batch_size=4", "steps=1", "accelerator=cpu", "precision=fp32", "data=synthetic")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the model never sees")
        assert call(recipe, tmp_path / "run", *options, "plots=false", "progress=false") == 0
    config = zoo.load(tmp_path / "run").config
    assert config.parts.get("audio", config).max_length == 104


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mel_bins": 64, "stride": 10}, "never sees the last 8 of 64"),
        ({"mel_bins": 128, "max_length": 98, "stride": [8, 12]}, "never sees the last 10 of 98"),
    ],
)
def test_a_shape_that_leaves_out_a_part_is_warned_about(fields: dict, words: str) -> None:
    with pytest.warns(UserWarning, match=words):
        zoo.create_model("ast_tiny", depth=1, width=16, heads=2, seed=0, **fields)
