import pytest
import torch
from peers import error, pixels, randomise

from zoo.models.vit import ViT, ViTConfig
from zoo.resample import adapt_channels, fit_patches, resample_grid, resample_kernel

TINY = ViTConfig(image_size=32, patch_size=8, width=16, depth=1, heads=2, num_classes=3)


@pytest.mark.parametrize("old, new", [((4, 4), (7, 7)), ((4, 4), (3, 6)), ((5, 3), (2, 8)), ((4, 4), (4, 4))])
def test_positions_are_resampled_as_timm_does(old, new):
    from timm.layers import resample_abs_pos_embed

    table = torch.randn(1, 2 + old[0] * old[1], 8)
    theirs = resample_abs_pos_embed(table, new_size=list(new), old_size=list(old), num_prefix_tokens=2)
    ours = resample_grid(table[0, 2:], old, new)
    assert torch.allclose(ours, theirs[0, 2:], atol=1e-6)


@pytest.mark.parametrize("old, new", [((8, 8), (16, 16)), ((16, 16), (14, 14)), ((8, 8), (4, 6)), ((8, 8), (8, 8))])
def test_patch_kernels_are_resampled_as_timm_does(old, new):
    from timm.layers import resample_patch_embed

    kernel = torch.randn(5, 3, *old)
    assert torch.allclose(resample_kernel(kernel, new), resample_patch_embed(kernel, list(new)), atol=2e-5)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_channels_are_adapted_as_timm_does(channels):
    from timm.models import adapt_input_conv

    kernel = torch.randn(5, 3, 8, 8)
    assert torch.allclose(adapt_channels(kernel, channels), adapt_input_conv(channels, kernel), atol=1e-6)


def test_half_precision_stays():
    half = torch.randn(6, 3, 4, 4).half()
    assert resample_kernel(half, (8, 8)).dtype == adapt_channels(half, 1).dtype == torch.half
    assert resample_grid(torch.randn(16, 4).half(), (4, 4), (5, 5)).dtype == torch.half


def fitted(before, **changes):
    old = randomise(ViT(before))
    new = ViT(before.replace(**changes)).eval()
    state = dict(old.state_dict())
    changed = fit_patches(state, old, new)
    new.load_state_dict(state)
    return old, new, changed


@pytest.mark.parametrize("prefix", [0, 1, 2, 4])
@pytest.mark.parametrize("before", [0, 1, 3, 4])
def test_rows_of_the_position_table_move_without_changing_the_model(before, prefix):
    start = TINY.replace(registers=3, position_prefix=before)
    old, new, changed = fitted(start, position_prefix=prefix)
    x = pixels()
    assert len(new.patches.positions) == prefix + 16
    assert error(new(x), old(x)) < 1e-6
    assert changed == ([] if prefix == before else changed) and ("patches.positions" in changed) == (prefix != before)


def test_only_what_changes_is_named():
    assert fitted(TINY)[2] == []
    assert fitted(TINY, image_size=(32, 64))[2] == ["patches.positions"]
    assert fitted(TINY, in_chans=1)[2] == ["patches.proj.weight"]
    assert fitted(TINY, patch_size=4)[2] == ["patches.proj.weight", "patches.positions"]
    assert fitted(TINY, patch_size=16, image_size=64)[2] == ["patches.proj.weight"]
    assert fitted(TINY.replace(stem="conv"), in_chans=1)[2] == ["patches.proj.0.weight"]
