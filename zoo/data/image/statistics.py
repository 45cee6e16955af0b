"""Mean and standard deviation of the pixels of a dataset."""

from collections.abc import Iterable

import torch
from torch import Tensor


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, standard deviation) of each channel of uint8 images [N, C, H, W], for pixels from 0 to 1."""
    return statistics_of_parts([images])


def statistics_of_parts(parts: Iterable[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The same of images in several parts, of which one at a time is in memory."""
    counts: Tensor | int = 0
    for images in parts:
        channels = images.movedim(1, 0).flatten(1)
        counts = counts + torch.stack([torch.bincount(channel, minlength=256) for channel in channels]).double()
    assert isinstance(counts, Tensor)
    mean, std = zip(*(_channel_statistics(own) for own in counts))
    return mean, std


def _channel_statistics(counts: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of values from 0 to 1, from the counts of 0 to 255, float64 [256]."""
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * values).sum() / counts.sum()
    deviation = ((counts * (values - mean) ** 2).sum() / counts.sum()).sqrt()
    return mean.item(), max(deviation.item(), 1 / 255)
