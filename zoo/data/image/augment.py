"""Augmentation of whole batches on their device, sampled independently for each image.

The augmentation of an image is a function of (seed, epoch, index) only, and its MixUp or CutMix partner of (seed, step)
and the micro-batch. Results therefore do not depend on resuming or the number of workers, nor on how processes and
accumulation steps share the micro-batches. MixUp and CutMix mix images of one micro-batch, as in timm: with them, the
number of micro-batches of a step counts.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.data.augment_config import AugmentSettings
from zoo.data.image.cuda_graph import CudaGraphs
from zoo.data.image.rand_augment import AugmentPolicy
from zoo.utils.keyed_random import KeyedRandom, beta_quantiles, log_uniform_quantiles
from zoo.utils.transfer import to_device

ERASED_AREA = (0.02, 1 / 3)  # fraction of the image; Zhong et al. 2020, as in torchvision and timm
ERASED_ASPECT = (0.3, 3.3)
_SAMPLED_BY = ("pixel_values", "labels", "index", "epoch", "mirrors")  # entries of a batch that augmentation depends on


class Augment:
    """Normalizes batches of uint8 images and augments them in training.

    Args:
        settings: Augmentation in training.
        mean, std: Mean and standard deviation of each channel, for pixel values from 0 to 1.
        num_classes: Number of classes; required by MixUp and CutMix for their soft targets.
    """

    def __init__(
        self, settings: AugmentSettings, mean: Sequence[float], std: Sequence[float], num_classes: int | None = None
    ) -> None:
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"mean={mean}, std={std}: expected one mean and one positive std per channel")
        if settings.mixes and not num_classes:
            raise ValueError("MixUp and CutMix make soft targets: pass num_classes, or set mixup=0 and cutmix=0")
        self.settings, self.num_classes = settings, num_classes
        self.mean = torch.tensor(mean, dtype=torch.float32).mul(255)[:, None, None]
        self.scale = 1 / torch.tensor(std, dtype=torch.float32).mul(255)[:, None, None]
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self.policy: AugmentPolicy | None = None
        self._graphs = CudaGraphs("the augmentation of images")
        if settings.policy != "none":
            self.policy = AugmentPolicy(settings.policy, num_ops=settings.num_ops, magnitude=settings.magnitude)

    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Tensor]:
        """Augment and normalize.

        Args:
            batch: pixel_values uint8 [B, C, H, W] and labels int64 [B]; in training also index int64 [B], the dataset
                index of each image, and epoch (an int or scalar tensor). Optional mirrors bool [B]: images that may be
                flipped.
            seed: Seed of the run.
            step: Training step; determines the partners of MixUp and CutMix.
            train: False only normalizes.

        Returns:
            pixel_values float32 [B, C, H, W]; labels int64 [B]; targets: the labels, or with MixUp or CutMix the class
            probabilities float32 [B, K].
        """
        images, labels = batch["pixel_values"], batch["labels"]
        self._check(batch, train)
        if not train:
            return {"pixel_values": self._normalize(images), "labels": labels, "targets": labels}
        sampled_by = {name: batch[name] for name in _SAMPLED_BY if name in batch}
        if not images.is_cuda:
            return self._augment(sampled_by | {"step": step}, seed)
        on_device = {
            name: x if isinstance(x, Tensor) and x.is_cuda else torch.full((), int(x), device=images.device)
            for name, x in (sampled_by | {"step": step}).items()
        }
        return self._graphs(partial(self._augment, seed=seed), on_device, key=seed)

    def _augment(self, batch: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
        """The augmented batch; every kernel it launches depends on shapes alone, so that they make up a CUDA graph."""
        images, labels = batch["pixel_values"], batch["labels"]
        rng = KeyedRandom(seed, batch["epoch"], batch["index"])
        if self.settings.crop or self.settings.flip:
            flip = self.settings.flip * batch.get("mirrors", 1)
            images = crop_flip(images, rng, self.settings.crop, flip)
        if self.policy is not None:
            images = self.policy(images, rng)
        pixels = self._normalize(images)
        if self.settings.erasing:
            pixels = erase(pixels, rng, self.settings.erasing)
        if not self.settings.mixes:
            return {"pixel_values": pixels, "labels": labels, "targets": labels}
        assert self.num_classes is not None
        partner = partners(seed, batch["step"], batch["index"])
        pixels, weight = mix_images(pixels, partner, rng, self.settings)
        one_hot = F.one_hot(labels, self.num_classes).float()
        targets = one_hot * weight[:, None] + one_hot[partner] * (1 - weight)[:, None]
        return {"pixel_values": pixels, "labels": labels, "targets": targets}

    def _normalize(self, images: Tensor) -> Tensor:
        if images.device not in self._constants:  # one copy for each device: a CUDA graph reads it where it is
            self._constants[images.device] = (to_device(self.mean, images.device), to_device(self.scale, images.device))
        mean, scale = self._constants[images.device]
        return images.float().sub_(mean).mul_(scale)

    def _check(self, batch: Mapping[str, Any], train: bool) -> None:
        images = batch["pixel_values"]
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"pixel_values: expected uint8 [B, C, H, W], got {images.dtype} {tuple(images.shape)}")
        if images.shape[1] != len(self.mean):
            raise ValueError(f"pixel_values have {images.shape[1]} channels, but mean and std have {len(self.mean)}")
        if train and (absent := [name for name in ("index", "epoch") if name not in batch]):
            raise ValueError(f"augmentation is sampled by index and epoch, but the batch has no {' and '.join(absent)}")


def crop_flip(images: Tensor, rng: KeyedRandom, padding: int, flip: float | Tensor) -> Tensor:
    """Random crop of zero-padded images [B, C, H, W] to their size, and horizontal flip.

    Args:
        images: uint8 [B, C, H, W].
        rng: Random numbers, one key per image.
        padding: Padding in pixels before the crop.
        flip: Probability of a flip, one for all images or one for each [B].
    """
    channels, height, width = images.shape[1:]
    down = rng.integers("crop/down", 2 * padding + 1)
    right = rng.integers("crop/right", 2 * padding + 1)
    flipped = (rng.uniform("flip") < flip)[:, None]
    rows = torch.arange(height, device=images.device) + down[:, None]  # [B, H]
    columns = torch.arange(width, device=images.device)
    columns = torch.where(flipped, width - 1 - columns, columns) + right[:, None]  # [B, W]
    source = (rows * (width + 2 * padding))[:, :, None] + columns[:, None]  # [B, H, W]
    padded = F.pad(images, (padding,) * 4).flatten(2)
    return padded.gather(2, source.flatten(1)[:, None].expand(-1, channels, -1)).view_as(images)


def erase(pixels: Tensor, rng: KeyedRandom, probability: float) -> Tensor:
    """Random erasing: set a box to zero, the mean of normalized pixels, in some of the images [B, C, H, W].

    Area and aspect ratio are sampled as in Random Erasing; sides longer than the image are clipped, not resampled.
    """
    height, width = pixels.shape[2:]
    area = (ERASED_AREA[0] + rng.uniform("erase/area") * (ERASED_AREA[1] - ERASED_AREA[0])) * (height * width)
    aspect = rng.choice("erase/shape", log_uniform_quantiles(*ERASED_ASPECT, pixels.device))
    box_height = (area * aspect).sqrt().round().long().clamp(1, height)
    box_width = (area / aspect).sqrt().round().long().clamp(1, width)
    top = rng.integers("erase/top", height - box_height + 1)
    left = rng.integers("erase/left", width - box_width + 1)
    chosen = rng.uniform("erase") < probability
    return pixels.masked_fill_(_box(top, left, box_height * chosen, box_width, height, width), 0.0)


def _box(top: Tensor, left: Tensor, box_height: Tensor, box_width: Tensor, height: int, width: int) -> Tensor:
    """Mask of boxes, bool [B, 1, H, W]."""
    y = torch.arange(height, device=top.device)
    x = torch.arange(width, device=top.device)
    rows = (y >= top[:, None]) & (y < (top + box_height)[:, None])
    columns = (x >= left[:, None]) & (x < (left + box_width)[:, None])
    return (rows[:, :, None] & columns[:, None])[:, None]


def partners(seed: int, step: int | Tensor, index: Tensor) -> Tensor:
    """Position of a mixing partner for each of B images: the next one in a random cyclic order."""
    order = KeyedRandom(seed, step, index).bits("mix/partner").argsort()
    partner = torch.empty_like(order)
    partner[order] = order.roll(-1)
    return partner


def mix_images(pixels: Tensor, partner: Tensor, rng: KeyedRandom, settings: AugmentSettings) -> tuple[Tensor, Tensor]:
    """MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019), sampled independently for each image.

    Returns:
        The images [B, C, H, W] and the weight [B] of each image's own label.
    """
    height, width = pixels.shape[2:]
    mixed = rng.uniform("mix") < settings.mix_probability
    cut = torch.full_like(mixed, settings.cutmix > 0)
    if settings.mixup and settings.cutmix:
        cut = rng.uniform("mix/kind") < 0.5
    weight, box = torch.ones(len(pixels), device=pixels.device), None
    if settings.mixup:
        lam = rng.choice("mixup", beta_quantiles(settings.mixup, pixels.device))
        weight = torch.where(mixed & ~cut, lam, weight)
    if settings.cutmix:
        box = _cut_box(rng, settings.cutmix, mixed & cut, height, width)
    other = pixels[partner]
    result = torch.lerp(other, pixels, weight[:, None, None, None])
    if box is not None:
        result = torch.where(box, other, result)
        weight = torch.where(cut, 1 - box.flatten(1).float().mean(1), weight)
    return result, weight


def _cut_box(rng: KeyedRandom, alpha: float, chosen: Tensor, height: int, width: int) -> Tensor:
    """Box of CutMix, bool [B, 1, H, W]: relative area 1 - lambda, centered on a random pixel, clipped to the image."""
    side = (1 - rng.choice("cutmix", beta_quantiles(alpha, chosen.device))).sqrt()
    box_height, box_width = (side * height).long(), (side * width).long()
    top = rng.integers("cutmix/top", height) - box_height // 2
    left = rng.integers("cutmix/left", width) - box_width // 2
    return _box(top, left, box_height * chosen, box_width, height, width)
