import pytest
import torch
from peers import error, pixels, randomize

from zoo.checkpoints.resize import fit_patches
from zoo.models.vit.model import ViT, ViTConfig
from zoo.nn.frontends.image import adapt_channels, resample_grid, resample_kernel

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
    old = randomize(ViT(before))
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


def several(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    return [torch.randn(3, *size) for size in sizes]


@pytest.mark.parametrize(
    "fields",
    [
        dict(),
        dict(pool="mean", class_token=False, stem="conv"),
        dict(pool="map", class_token=False),
        dict(registers=2, pool_norm=True),
        dict(pre_norm=True, attention="linear"),
    ],
)
def test_an_image_in_a_batch_of_mixed_sizes_has_the_output_it_has_alone(fields):
    model = randomize(ViT(TINY.replace(**fields))).double().eval()
    pictures = [x.double() for x in several((32, 32), (16, 48), (32, 32), (48, 16), (16, 48))]
    answers = model(pictures)
    for picture, answer in zip(pictures, answers, strict=True):
        assert error(answer, model([picture])[0]) < 1e-12
    assert error(answers[[0, 2]], model(torch.stack([pictures[0], pictures[2]]))) < 1e-12


def test_images_of_mixed_sizes_match_timm():
    import timm

    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2,
                               num_classes=3, dynamic_img_size=True).eval()  # fmt: skip
    randomize(theirs)
    ours = ViT(TINY).eval()
    blocks = {"norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.up", "mlp.fc2": "mlp.down", "attn.proj": "mixer.out"}
    state = {}
    for name, x in theirs.state_dict().items():
        for old, new in {"cls_token": "patches.cls", "pos_embed": "patches.positions", "patch_embed": "patches",
                         "head.": "head.proj."}.items():  # fmt: skip
            name = name.replace(old, new)
        name = "blocks." + name if name.startswith("norm.") else name
        for old, new in blocks.items():
            name = name.replace(old, new)
        if ".attn.qkv." in name:
            for part, piece in zip("qkv", x.chunk(3), strict=True):
                state[name.replace("attn.qkv", f"mixer.{part}")] = piece
        else:
            state[name] = x.reshape(ours.state_dict()[name].shape)
    ours.load_state_dict(state)
    pictures = several((32, 32), (16, 48), (64, 32))
    assert error(ours(pictures), torch.cat([theirs(x[None]) for x in pictures])) < 1e-5


def test_invalid_images_raise():
    model = ViT(TINY)
    randomize(model)
    with pytest.raises(ValueError, match="32 x 32"):
        model(torch.randn(1, 3, 16, 48))
    with pytest.raises(ValueError, match="not a multiple of patch_size"):
        model(several((32, 32), (30, 32)))
    with pytest.raises(ValueError, match="list of images is empty"):
        model([])
    with pytest.raises(ValueError, match=r"\[C, H, W\]"):
        model([torch.randn(1, 3, 32, 32)])
    with pytest.raises(ValueError, match="in_chans"):
        model([torch.randn(1, 16, 48)])
    near = ViT(TINY.replace(attention={"kind": "local", "window": 3, "grid": (4, 4), "prefix": 1}))
    with pytest.raises(ValueError, match="grid="):
        randomize(near)(several((16, 48)))
    assert near(several((32, 32))).shape == (1, 3)
    with pytest.raises(ValueError, match="head=None"):
        ViT(TINY.replace(head=None))(several((16, 48)))
