"""RandAugment and TrivialAugment against torchvision's own classes, image by image."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, RandAugment, TrivialAugmentWide

from zoo.data.image.rand_augment import (
    BINS,
    OPERATIONS,
    AugmentPolicy,
    _blur,
    _rows,
    _stretch_contrast,
    strengths,
    torchvision_operation,
)
from zoo.utils.keyed_random import KeyedRandom

FEW = 0.01  # of the pixels of a picture
THEIRS = {"randaugment": RandAugment(), "trivialaugment": TrivialAugmentWide()}


def images(n: int, height: int = 20, width: int = 24, channels: int = 3) -> Tensor:
    """Half noise, half smooth pictures."""
    g = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (n, channels, height, width), generator=g, dtype=torch.uint8)
    coarse = torch.rand(n, channels, 4, 4, generator=g)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") * 255
    return torch.where(torch.arange(n)[:, None, None, None] % 2 == 0, noise, smooth.to(torch.uint8))


@pytest.mark.parametrize("name", THEIRS)
def test_the_space_is_torchvisions(name: str) -> None:
    space = THEIRS[name]._AUGMENTATION_SPACE
    assert set(space) == set(OPERATIONS)
    for operation, (magnitudes, _) in space.items():
        theirs = magnitudes(BINS, 20, 24)
        if theirs is not None:
            assert [float(v) for v in theirs] == [float(v) for v in strengths(name, operation, 20, 24)], operation


@pytest.mark.parametrize("name", THEIRS)
def test_signs_are_torchvisions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each operation: the strength as it is and, if torchvision says that it has a sign, its negative."""
    policy, x = AugmentPolicy(name, num_ops=1, magnitude=17), images(6)
    for number, operation in enumerate(OPERATIONS):
        magnitudes, signed = THEIRS[name]._AUGMENTATION_SPACE[operation]
        values = magnitudes(BINS, 20, 24)
        for place, level in enumerate(policy.bins):
            strength = 0.0 if values is None else float(values[level])
            for negative in (False, True):
                chosen = (torch.full((6,), number), torch.full((6,), 2 * place + negative))
                monkeypatch.setattr(policy, "sample", lambda rng, step, chosen=chosen: chosen)
                theirs = THEIRS[name]._apply_image_or_video_transform(
                    x, operation, -strength if negative and signed else strength,
                    interpolation=InterpolationMode.NEAREST, fill={Tensor: None},
                )  # fmt: skip
                off = (policy(x, KeyedRandom(0, 0, torch.arange(6))).int() - theirs.int()).abs()
                assert off.max() <= 1 and (off > 0).float().mean() < FEW, (operation, level, negative)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", THEIRS)
def test_every_image_gets_torchvisions_result_for_its_draw(name: str, channels: int) -> None:
    """Pixel for pixel: the draw says operation and signed strength, torchvision applies them to that image alone.

    Where a processor has no fused multiply-add, torchvision rounds a few gray levels the other way.
    """
    x = images(600, channels=channels)
    policy, rng = AugmentPolicy(name, num_ops=1), KeyedRandom(0, 0, torch.arange(len(x)))
    operation, row = policy.sample(rng, 0)
    ours = policy(x, rng)
    seen = set()
    for i in range(len(x)):
        chosen = OPERATIONS[int(operation[i])]
        strength = float(_rows(name, chosen, policy.bins, (20, 24))[int(row[i])])
        theirs = THEIRS[name]._apply_image_or_video_transform(
            x[i], chosen, strength, interpolation=InterpolationMode.NEAREST, fill={Tensor: None}
        )
        off = (ours[i].int() - theirs.int()).abs()
        assert off.max() <= 1 and (off > 0).float().mean() < FEW, (chosen, strength)
        seen.add(chosen)
    assert seen == set(OPERATIONS)


@pytest.mark.parametrize("size", [(20, 24), (3, 3), (2, 24)])
@pytest.mark.parametrize("channels", [3, 1])
def test_blur_and_contrast_are_torchvisions_in_every_bit(channels: int, size: tuple[int, int]) -> None:
    """Also under autocast, in which torchvision's blur would be one in bfloat16."""
    x = images(200, *size, channels)
    x[0], x[1, 0] = 7, 200
    blurred, stretched = (torchvision_operation(x, name, -1.0) for name in ("Sharpness", "AutoContrast"))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(_blur(x).to(torch.uint8), blurred) and torch.equal(_stretch_contrast(x), stretched)


def test_operations_and_strengths_are_uniform() -> None:
    n = 60_000
    operation, row = AugmentPolicy("trivialaugment").sample(KeyedRandom(0, 0, torch.arange(n)), 0)
    for drawn, kinds in ((operation, len(OPERATIONS)), (row, 2 * BINS)):
        counts = torch.bincount(drawn, minlength=kinds)
        assert len(counts) == kinds
        assert ((counts - n / kinds) ** 2 / (n / kinds)).sum() < kinds + 4.5 * (2 * kinds) ** 0.5


def test_two_operations_are_drawn_independently() -> None:
    policy = AugmentPolicy("randaugment", num_ops=2)
    rng = KeyedRandom(0, 0, torch.arange(60_000))
    first, second = policy.sample(rng, 0)[0], policy.sample(rng, 1)[0]
    assert abs((first == second).float().mean() - 1 / len(OPERATIONS)) < 0.005
    x = images(64)
    assert not torch.equal(
        policy(x, KeyedRandom(0, 0, torch.arange(64))),
        AugmentPolicy("randaugment", num_ops=1)(x, KeyedRandom(0, 0, torch.arange(64))),
    )


def test_the_accelerators_way_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU each change is computed for all images and selected; the result must not depend on that."""
    import zoo.data.image.rand_augment as module

    def select(x: Tensor, chosen: Tensor, row: Tensor, change) -> Tensor:  # type: ignore[no-untyped-def]
        return torch.where(chosen[:, None, None, None], change(x, row), x)

    x, rng = images(300), KeyedRandom(0, 1, torch.arange(300))
    by_group = AugmentPolicy("trivialaugment")(x, rng)
    monkeypatch.setattr(module, "_where", select)
    assert torch.equal(AugmentPolicy("trivialaugment")(x, rng), by_group)


def test_the_given_images_stay_as_they_are() -> None:
    x = images(64)
    before = x.clone()
    AugmentPolicy("randaugment")(x, KeyedRandom(0, 0, torch.arange(64)))
    assert torch.equal(x, before)


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="randaugment, trivialaugment"):
        AugmentPolicy("autoaugment")
    with pytest.raises(ValueError, match="1 or 3 channels, not 4"):
        AugmentPolicy("randaugment")(images(2, channels=4), KeyedRandom(0, 0, torch.arange(2)))
