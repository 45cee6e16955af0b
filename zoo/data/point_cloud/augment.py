"""Augmentation of batches of point clouds, independently for each cloud as a pure function of (seed, epoch, index)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from zoo.data.point_cloud_config import PointCloudAugmentSettings
from zoo.data.rotations import random_rotations, rotations_about_z
from zoo.nn.lengths import right_padding
from zoo.preprocessing.point_cloud import PointCloudProcessor
from zoo.utils.keyed_random import KeyedRandom, hash_keys


class PointCloudAugment:
    """Makes a raw batch of a PointCloudDataset an input of the model, and in training augments it before that.

    The clouds are then processed as `model.preprocess` does, so that training and evaluation see what `zoo.predict`
    sees. Features of the points beside their coordinates are left as they are.

    Args:
        settings: Augmentation in training.
        preprocess: Processor of the model.
    """

    def __init__(self, settings: PointCloudAugmentSettings, preprocess: PointCloudProcessor) -> None:
        self.settings, self.preprocess = settings, preprocess

    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Any]:
        """Convert a batch of raw clouds to one of the model.

        Returns: `points` [B, N, 3 + F], `attention_mask` [B, N], `lengths` (a list: it stays on the host), `labels` [B]
            and `targets` [B].
        """
        labels = batch["labels"]
        return self.inputs(batch, seed, train) | {"labels": labels, "targets": labels}

    def inputs(self, batch: Mapping[str, Any], seed: int, train: bool) -> dict[str, Any]:
        """`points`, `attention_mask` and `lengths` of the batch of the model, with all columns of the raw points."""
        points, lengths = batch["points"], batch["lengths"]
        if train:
            rng = KeyedRandom(seed, batch["epoch"], batch["index"])
            points, lengths = self.augmented(points, lengths, rng)
        rows = zip(points, lengths, strict=True)
        clouds = [self.preprocess.prepare(cloud[:count]) for cloud, count in rows]
        points, lengths = pad_sequence(clouds, batch_first=True), [len(cloud) for cloud in clouds]
        return {"points": points, "attention_mask": right_padding(lengths, points).long(), "lengths": lengths}

    def augmented(self, points: Tensor, lengths: list[int], rng: KeyedRandom) -> tuple[Tensor, list[int]]:
        """(augmented clouds [B, N, 3 + F], their numbers of points); each keeps at least one."""
        s = self.settings
        keep = right_padding(lengths, points)
        positions = torch.arange(points.shape[1], device=points.device)
        each = KeyedRandom(0, 0, hash_keys(rng.keys[:, None], positions))  # for each point, [B, N]
        xyz, features = points[..., :3], points[..., 3:]
        if s.scale:
            factors = [1 + s.scale * (2 * rng.uniform(f"point/scale {axis}") - 1) for axis in "xyz"]
            xyz = xyz * torch.stack(factors, -1)[:, None]
        if s.rotation == "so3":
            turns = random_rotations(torch.stack([rng.uniform(f"point/rotation {i}") for i in range(3)], -1))
            xyz = xyz @ turns.mT
        elif s.rotation == "z":
            xyz = xyz @ rotations_about_z(rng.uniform("point/rotation")).mT
        if s.jitter:
            xyz = xyz + s.jitter * radii(xyz, keep)[:, None, None] * normal(each)
        points = torch.cat([xyz, features], -1)
        if not s.drop:
            return points, lengths
        # The points with the smallest random values stay, in their order.
        kept = (keep.sum(1) * (1 - s.drop * rng.uniform("point/drop"))).ceil().long()
        rank = each.uniform("point/order").masked_fill(~keep, 2.0).argsort(dim=1, stable=True).argsort(1)
        counts: list[int] = kept.tolist()
        order = (rank >= kept[:, None]).long().argsort(dim=1, stable=True)[:, : max(counts)]
        return points.gather(1, order[..., None].expand(-1, -1, points.shape[2])), counts


class LabeledPointsAugment(PointCloudAugment):
    """The same for a raw batch of `LabeledPoints`, whose last column is the class of a point."""

    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Any]:
        """Convert a batch of raw clouds to one of the model.

        Returns: `points` [B, N, 3 + F], `attention_mask` [B, N], `lengths` (a list), `labeled` bool [B, N], True for
            the points that have a class, and of these P points `labels` [P] and `targets` [P].
        """
        inputs = self.inputs(batch, seed, train)
        classes = inputs["points"][..., -1].long()
        labeled = inputs["attention_mask"].bool() & (classes >= 0)
        labels = classes[labeled]
        return inputs | {"points": inputs["points"][..., :-1], "labeled": labeled, "labels": labels, "targets": labels}


def radii(xyz: Tensor, keep: Tensor) -> Tensor:
    """The greatest distance of a point from the mean of its cloud, [B]; xyz [B, N, 3], keep [B, N] True for points."""
    weights = keep.to(xyz.dtype)[..., None]
    center = (xyz * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
    return ((xyz - center).norm(dim=-1) * weights[..., 0]).amax(1)


def normal(rng: KeyedRandom) -> Tensor:
    """Normally distributed numbers [..., 3] for each key, by the method of Box and Muller (1958)."""
    radius = [(-2 * (1 - rng.uniform(f"point/noise radius {i}")).log()).sqrt() for i in range(2)]
    angle = [2 * math.pi * rng.uniform(f"point/noise angle {i}") for i in range(2)]
    return torch.stack([radius[0] * angle[0].cos(), radius[0] * angle[0].sin(), radius[1] * angle[1].cos()], -1)
