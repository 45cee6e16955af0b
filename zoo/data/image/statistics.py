"""Mean and standard deviation of the pixels of a dataset."""

import torch


def statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, standard deviation) of each channel of uint8 images [N, C, H, W], for pixels from 0 to 1."""
    mean, std = zip(*(_channel_statistics(channel) for channel in images.movedim(1, 0).flatten(1)))
    return mean, std


def _channel_statistics(channel: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of uint8 values scaled to 0..1, computed from their histogram."""
    counts = torch.bincount(channel, minlength=256).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * values).sum() / counts.sum()
    deviation = ((counts * (values - mean) ** 2).sum() / counts.sum()).sqrt()
    return mean.item(), max(deviation.item(), 1 / 255)
