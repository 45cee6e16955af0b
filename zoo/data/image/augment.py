"""Augmentation of a whole batch at once, on the device where it lies; each image draws for itself.

What happens to an image is a function of (seed, epoch, index) alone, and whom it is mixed with of (seed, step) and the
batch: a resumed run, another number of workers, or two processes instead of one see the very same pictures.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.data.augment_config import AugmentSettings
from zoo.data.image.rand_augment import AugmentPolicy
from zoo.utils.keyed_random import KeyedRandom, beta_quantiles, log_uniform_quantiles

ERASED_AREA = (0.02, 1 / 3)  # Zhong et al. 2020, as in torchvision and timm
ERASED_SHAPE = (0.3, 3.3)


class Augment:
    """Turns a batch of uint8 images into normalized floats and, in training, augments it on the way.

    Args:
        settings: What to do in training.
        mean, std: Statistics of each channel for pixels from 0 to 1.
        num_classes: Needed by MixUp and CutMix, whose targets are distributions over the classes.
    """

    def __init__(
        self, settings: AugmentSettings, mean: Sequence[float], std: Sequence[float], num_classes: int | None = None
    ) -> None:
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"mean={mean}, std={std}: expected as many means as standard deviations above 0")
        if settings.mixes and not num_classes:
            raise ValueError("MixUp and CutMix give soft targets: pass num_classes, or set mixup=0 and cutmix=0")
        self.settings, self.num_classes = settings, num_classes
        self.mean = torch.tensor(mean, dtype=torch.float32).mul(255)[:, None, None]
        self.scale = 1 / torch.tensor(std, dtype=torch.float32).mul(255)[:, None, None]
        self.policy: AugmentPolicy | None = None
        if settings.policy != "none":
            self.policy = AugmentPolicy(settings.policy, num_ops=settings.num_ops, magnitude=settings.magnitude)

    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Tensor]:
        """Augment and normalize.

        Args:
            batch: pixel_values uint8 [B, C, H, W] and labels int64 [B]; in training also index int64 [B], each image's
                number in its data set, and epoch (a number or a scalar tensor); mirrors bool [B] may say which of
                them may be flipped at all.
            seed: Of the run.
            step: Any count that differs from batch to batch; it shuffles the partners of MixUp and CutMix.
            train: False only normalizes.

        Returns:
            pixel_values float32 [B, C, H, W]; labels int64 [B]; targets: the labels, or with MixUp or CutMix the
            distributions float32 [B, K] that the images now stand for.
        """
        images, labels = batch["pixel_values"], batch["labels"]
        self._check(batch, train)
        if not train:
            return {"pixel_values": self._normalize(images), "labels": labels, "targets": labels}
        draws = KeyedRandom(seed, batch["epoch"], batch["index"])
        if self.settings.crop or self.settings.flip:
            flip = self.settings.flip * batch.get("mirrors", 1)
            images = crop_flip(images, draws, self.settings.crop, flip)
        if self.policy is not None:
            images = self.policy(images, draws)
        pixels = self._normalize(images)
        if self.settings.erasing:
            pixels = erase(pixels, draws, self.settings.erasing)
        if not self.settings.mixes:
            return {"pixel_values": pixels, "labels": labels, "targets": labels}
        assert self.num_classes is not None
        partner = partners(seed, step, batch["index"])
        pixels, share = mix_images(pixels, partner, draws, self.settings)
        whole = F.one_hot(labels, self.num_classes).float()
        targets = whole * share[:, None] + whole[partner] * (1 - share)[:, None]
        return {"pixel_values": pixels, "labels": labels, "targets": targets}

    def _normalize(self, images: Tensor) -> Tensor:
        if self.mean.device != images.device:
            self.mean, self.scale = self.mean.to(images.device), self.scale.to(images.device)
        return images.float().sub_(self.mean).mul_(self.scale)

    def _check(self, batch: Mapping[str, Any], train: bool) -> None:
        images = batch["pixel_values"]
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"pixel_values: expected uint8 [B, C, H, W], got {images.dtype} {tuple(images.shape)}")
        if images.shape[1] != len(self.mean):
            raise ValueError(f"pixel_values have {images.shape[1]} channels, mean and std have {len(self.mean)}")
        if train and (absent := [name for name in ("index", "epoch") if name not in batch]):
            raise ValueError(f"each image draws by its number, but the batch lacks {' and '.join(absent)}")


def crop_flip(images: Tensor, draws: KeyedRandom, padding: int, flip: float | Tensor) -> Tensor:
    """Cut [B, C, H, W] at a random place out of itself padded with black; mirror it with probability `flip` (of all, or
    of each [B])."""
    channels, height, width = images.shape[1:]
    down = draws.integers("crop/down", 2 * padding + 1)
    right = draws.integers("crop/right", 2 * padding + 1)
    mirrored = (draws.uniform("flip") < flip)[:, None]
    rows = torch.arange(height, device=images.device) + down[:, None]  # [B, H]
    columns = torch.arange(width, device=images.device)
    columns = torch.where(mirrored, width - 1 - columns, columns) + right[:, None]  # [B, W]
    source = (rows * (width + 2 * padding))[:, :, None] + columns[:, None]  # [B, H, W]
    padded = F.pad(images, (padding,) * 4).flatten(2)
    return padded.gather(2, source.flatten(1)[:, None].expand(-1, channels, -1)).view_as(images)


def erase(pixels: Tensor, draws: KeyedRandom, probability: float) -> Tensor:
    """Put a box of zeros, the mean of normalized pixels, into a share of the images [B, C, H, W].

    Area and shape are drawn as in Random Erasing; a side longer than the image's is cut to it instead of redrawn.
    """
    height, width = pixels.shape[2:]
    area = (ERASED_AREA[0] + draws.uniform("erase/area") * (ERASED_AREA[1] - ERASED_AREA[0])) * (height * width)
    shape = draws.choice("erase/shape", log_uniform_quantiles(*ERASED_SHAPE, pixels.device))
    tall = (area * shape).sqrt().round().long().clamp(1, height)
    wide = (area / shape).sqrt().round().long().clamp(1, width)
    top, left = draws.integers("erase/top", height - tall + 1), draws.integers("erase/left", width - wide + 1)
    hit = draws.uniform("erase") < probability
    return pixels.masked_fill_(_box(top, left, tall * hit, wide, height, width), 0.0)


def _box(top: Tensor, left: Tensor, tall: Tensor, wide: Tensor, height: int, width: int) -> Tensor:
    """True inside the boxes, bool [B, 1, H, W]."""
    y = torch.arange(height, device=top.device)
    x = torch.arange(width, device=top.device)
    rows = (y >= top[:, None]) & (y < (top + tall)[:, None])
    columns = (x >= left[:, None]) & (x < (left + wide)[:, None])
    return (rows[:, :, None] & columns[:, None])[:, None]


def partners(seed: int, step: int, index: Tensor) -> Tensor:
    """For each of B images the place of another one: the next in a random circle, so that nobody is left out."""
    circle = KeyedRandom(seed, step, index).bits("mix/partner").argsort()
    partner = torch.empty_like(circle)
    partner[circle] = circle.roll(-1)
    return partner


def mix_images(pixels: Tensor, partner: Tensor, draws: KeyedRandom, settings: AugmentSettings) -> tuple[Tensor, Tensor]:
    """MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019), chosen and measured out for each image by itself.

    Returns:
        The images [B, C, H, W] and the share [B] of each image's own label.
    """
    height, width = pixels.shape[2:]
    mixed = draws.uniform("mix") < settings.mix_probability
    cut = torch.full_like(mixed, settings.cutmix > 0)
    if settings.mixup and settings.cutmix:
        cut = draws.uniform("mix/kind") < 0.5
    share, box = torch.ones(len(pixels), device=pixels.device), None
    if settings.mixup:
        drawn = draws.choice("mixup", beta_quantiles(settings.mixup, pixels.device))
        share = torch.where(mixed & ~cut, drawn, share)
    if settings.cutmix:
        box = _cut_box(draws, settings.cutmix, mixed & cut, height, width)
    other = pixels[partner]
    result = torch.lerp(other, pixels, share[:, None, None, None])
    if box is not None:
        result = torch.where(box, other, result)
        share = torch.where(cut, 1 - box.flatten(1).float().mean(1), share)
    return result, share


def _cut_box(draws: KeyedRandom, alpha: float, hit: Tensor, height: int, width: int) -> Tensor:
    """CutMix's box, bool [B, 1, H, W]: of relative area 1 - lambda around any pixel, cut at the image's border."""
    side = (1 - draws.choice("cutmix", beta_quantiles(alpha, hit.device))).sqrt()
    tall, wide = (side * height).long(), (side * width).long()
    top = draws.integers("cutmix/top", height) - tall // 2
    left = draws.integers("cutmix/left", width) - wide // 2
    return _box(top, left, tall * hit, wide, height, width)
