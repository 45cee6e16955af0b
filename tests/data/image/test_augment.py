"""Whole-batch augmentation: exact crops, rates, independence of the batch, soft targets."""

import pytest
import torch
from torch import Tensor

from zoo.data.augment_config import AugmentSettings
from zoo.data.image.augment import Augment, crop_flip, erase, partners
from zoo.utils.keyed_random import KeyedRandom

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
OFF = AugmentSettings(crop=0, flip=0.0)
FULL = AugmentSettings(policy="trivialaugment", erasing=0.25, mixup=0.8, cutmix=1.0)


def batch(n: int, size: int = 12, first: int = 0, epoch: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (first + n, 3, size, size + 2), generator=g, dtype=torch.uint8)[first:]
    index = torch.arange(first, first + n)
    return {"pixel_values": pixels, "labels": index % 10, "index": index, "epoch": torch.tensor(epoch)}


def run(settings: AugmentSettings, data: dict[str, Tensor], seed: int = 0, step: int = 0) -> dict[str, Tensor]:
    return Augment(settings, MEAN, STD, num_classes=10)(data, seed=seed, step=step, train=True)


def test_evaluation_only_normalizes() -> None:
    data = batch(8)
    out = Augment(FULL, MEAN, STD, 10)(data, seed=0, step=0, train=False)
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    torch.testing.assert_close(out["pixel_values"], (data["pixel_values"] / 255 - mean) / std, rtol=1e-5, atol=1e-5)
    assert out["targets"] is data["labels"]


@pytest.mark.parametrize("padding", [0, 3])
def test_crop_is_exactly_a_crop_of_the_padded_image(padding: int) -> None:
    data = batch(300)
    x, rng = data["pixel_values"], KeyedRandom(0, 0, data["index"])
    out = crop_flip(x, rng, padding, 0.5)
    down, right = rng.integers("crop/down", 2 * padding + 1), rng.integers("crop/right", 2 * padding + 1)
    padded = torch.nn.functional.pad(x, (padding,) * 4)
    mirrored = 0
    for i in range(len(x)):
        want = padded[i, :, down[i] : down[i] + 12, right[i] : right[i] + 14]
        if not torch.equal(out[i], want):
            assert torch.equal(out[i], want.flip(2))
            mirrored += 1
    assert 110 < mirrored < 190


def test_offsets_are_uniform_and_flips_have_their_rate() -> None:
    n, padding = 50_000, 4
    x = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5).expand(n, 1, 5, 5)
    out = crop_flip(x, KeyedRandom(0, 0, torch.arange(n)), padding, 0.3)
    keys, counts = out.flatten(1).unique(dim=0, return_counts=True)
    assert len(keys) == 2 * (2 * padding + 1) ** 2  # all offsets, both ways round; none falls outside the image
    left = KeyedRandom(0, 0, torch.arange(n)).uniform("flip") < 0.3
    assert abs(left.float().mean() - 0.3) < 0.01
    assert counts.max() / counts.sum() < 0.7 / 81 * 1.3 and counts.min() / counts.sum() > 0.3 / 81 * 0.7


def test_flip_never_and_always() -> None:
    data = batch(50)
    x, rng = data["pixel_values"], KeyedRandom(0, 0, data["index"])
    assert torch.equal(crop_flip(x, rng, 0, 0.0), x) and torch.equal(crop_flip(x, rng, 0, 1.0), x.flip(3))


@pytest.mark.parametrize("policy", ["none", "randaugment", "trivialaugment"])
def test_an_image_does_not_depend_on_its_batch(policy: str) -> None:
    settings = AugmentSettings(policy=policy, erasing=0.5)  # type: ignore[arg-type]
    whole = run(settings, batch(64, epoch=3))["pixel_values"]
    assert torch.equal(run(settings, batch(20, first=30, epoch=3))["pixel_values"], whole[30:50])
    assert torch.equal(run(settings, batch(1, first=7, epoch=3))["pixel_values"], whole[7:8])


def test_seed_and_epoch_change_it_and_step_does_not() -> None:
    first = run(AugmentSettings(), batch(64))["pixel_values"]
    assert torch.equal(run(AugmentSettings(), batch(64), step=9)["pixel_values"], first)
    assert not torch.equal(run(AugmentSettings(), batch(64), seed=1)["pixel_values"], first)
    assert not torch.equal(run(AugmentSettings(), batch(64, epoch=1))["pixel_values"], first)


def test_step_and_epoch_may_be_tensors() -> None:
    """As in a CUDA graph, whose kernels are the same in each step."""
    augment = Augment(AugmentSettings(policy="trivialaugment", cutmix=1.0), (0.5,) * 3, (0.2,) * 3, 10)
    x = batch(24)
    numbers = augment._augment(x | {"step": 5, "epoch": 2}, 1)
    tensors = augment._augment(x | {"step": torch.tensor(5), "epoch": torch.tensor(2)}, 1)
    other = augment._augment(x | {"step": torch.tensor(6), "epoch": torch.tensor(2)}, 1)
    assert all(torch.equal(numbers[name], tensors[name]) for name in numbers)
    assert not torch.equal(numbers["targets"], other["targets"])


def test_erasing_puts_one_box_of_the_mean_into_its_share() -> None:
    n, side = 20_000, 24
    out = erase(torch.ones(n, 1, side, side), KeyedRandom(0, 0, torch.arange(n)), 0.4)
    hole = out[:, 0] == 0
    hit = hole.flatten(1).any(1)
    assert abs(hit.float().mean() - 0.4) < 0.015
    rows, columns = hole.any(2).sum(1), hole.any(1).sum(1)
    assert torch.equal(rows * columns, hole.sum((1, 2)))  # the zeros fill a rectangle
    share = hole[hit].float().mean((1, 2))
    assert share.min() >= 0.01 and share.max() <= 0.36
    assert abs(share.mean() - (0.02 + 1 / 3) / 2) < 0.01
    assert (rows[hit] > columns[hit]).float().mean() > 0.4 and (rows[hit] < columns[hit]).float().mean() > 0.4


def test_partners_form_one_circle_over_the_batch() -> None:
    partner = partners(0, 5, torch.arange(100, 150))
    place, visited = 0, []
    for _ in range(50):
        visited.append(place)
        place = int(partner[place])
    assert place == 0 and sorted(visited) == list(range(50))
    assert not torch.equal(partners(0, 6, torch.arange(100, 150)), partner)


def test_mixup_is_the_weighted_mean_that_its_targets_say() -> None:
    settings = AugmentSettings(crop=0, flip=0.0, mixup=1.0)
    data = batch(64)
    plain, mixed = run(OFF, data)["pixel_values"], run(settings, data)
    partner = partners(0, 0, data["index"])
    share = KeyedRandom(0, 0, data["index"]).choice("mixup", torch.linspace(0, 1, 1 << 16))  # Beta(1, 1) is uniform
    want = plain * share[:, None, None, None] + plain[partner] * (1 - share)[:, None, None, None]
    torch.testing.assert_close(mixed["pixel_values"], want, rtol=0, atol=1e-3)
    one_hot = torch.nn.functional.one_hot(data["labels"], 10).float()
    torch.testing.assert_close(
        mixed["targets"], one_hot * share[:, None] + one_hot[partner] * (1 - share)[:, None], rtol=0, atol=1e-4
    )


def test_cutmix_shares_are_the_areas() -> None:
    data = batch(256, size=16)
    plain, out = run(OFF, data)["pixel_values"], run(AugmentSettings(crop=0, flip=0.0, cutmix=1.0), data)
    partner = partners(0, 0, data["index"])
    own, other = (out["pixel_values"] == plain).all(1), (out["pixel_values"] == plain[partner]).all(1)
    assert (own | other).all()  # every pixel is the image's own or the partner's
    same = (plain == plain[partner]).all(1)
    share = (own & ~same).flatten(1).sum(1) / (~same).flatten(1).sum(1)
    kept = out["targets"].gather(1, data["labels"][:, None])[:, 0]
    different = data["labels"] != data["labels"][partner]
    torch.testing.assert_close(kept[different], share[different], rtol=0, atol=0.02)
    assert 0.4 < kept.mean() < 0.8


def test_with_both_each_image_takes_one_and_some_take_none() -> None:
    settings = AugmentSettings(crop=0, flip=0.0, mixup=0.8, cutmix=1.0, mix_probability=0.5)
    data = batch(2000, size=8)
    plain, out = run(OFF, data)["pixel_values"], run(settings, data)
    untouched = (out["pixel_values"] == plain).flatten(1).all(1)
    assert 0.45 < untouched.float().mean() < 0.62
    torch.testing.assert_close(out["targets"].sum(1), torch.ones(2000))
    assert (out["targets"][untouched].max(1).values == 1).all()


def test_a_single_image_mixes_with_itself() -> None:
    out = run(AugmentSettings(mixup=0.8, cutmix=1.0), batch(1))
    assert out["targets"].max() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values": torch.zeros(2, 3, 8, 8)}, "expected uint8"),
        ({"pixel_values": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}, "1 channels, but mean and std have 3"),
        ({"index": None}, "has no index"),
    ],
)
def test_refuses_a_batch_it_cannot_augment(change: dict[str, Tensor | None], message: str) -> None:
    data = {k: v for k, v in (batch(2) | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        run(AugmentSettings(), data)


def test_refuses_settings_that_contradict() -> None:
    with pytest.raises(ValueError, match="num_classes"):
        Augment(FULL, MEAN, STD)
    for wrong in (
        {"flip": 1.5},
        {"crop": -1},
        {"magnitude": 31},
        {"num_ops": 0},
        {"mixup": -1.0},
        {"policy": "auto"},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            AugmentSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("options", "same"), [({}, True), ({"mixup": 1.0}, False), ({"cutmix": 1.0}, False)])
def test_micro_batches_are_augmented_as_the_batch_unless_images_are_mixed(options: dict, same: bool) -> None:
    """With MixUp and CutMix the targets of a micro-batch are classes of its own images."""
    pixels = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = {"pixel_values": pixels, "labels": torch.arange(8), "index": torch.arange(8)}
    parts = [{name: value[rows] for name, value in whole.items()} for rows in (slice(0, 4), slice(4, 8))]
    augment = Augment(AugmentSettings(**options), (0.5,) * 3, (0.2,) * 3, num_classes=8)
    first, *others = (augment(batch | {"epoch": 0}, seed=0, step=1, train=True) for batch in (whole, *parts))
    assert torch.equal(first["pixel_values"], torch.cat([other["pixel_values"] for other in others])) == same
    if not same:
        assert not others[0]["targets"][:, 4:].any() and not others[1]["targets"][:, :4].any()
