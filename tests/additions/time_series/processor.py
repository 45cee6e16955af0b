"""Reading, preprocessing and showing time series."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from zoo.utils.errors import LoadError, check_keys

KEYS = ("kind", "length", "mean", "std")


@dataclass(frozen=True)
class TimeSeries:
    """values: float32 [T, C]."""

    values: Tensor


def read(path: Any) -> TimeSeries:
    """A CSV file with one header line, a row per time step and a column per channel."""
    if isinstance(path, TimeSeries):
        return path
    try:
        values = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2, dtype=np.float32)
    except ValueError as error:
        raise ValueError(f"{path} is not a readable time series: {error}") from None
    return TimeSeries(torch.from_numpy(values))


@dataclass(frozen=True, kw_only=True)
class TimeSeriesProcessor:
    """Time series -> {"past_values": float32 [B, T, C]}: the last `length` steps, normalized, zeros before the first.

    mean, std: per channel.
    """

    length: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, series: Any) -> dict[str, Tensor]:
        items = list(series) if isinstance(series, Sequence) and not isinstance(series, str) else [series]
        return {"past_values": torch.stack([self._preprocess(item) for item in items])}

    def _preprocess(self, item: Any) -> Tensor:
        values = read(item).values
        if values.shape[1] != len(self.mean):
            raise ValueError(f"{item} has {values.shape[1]} channels, expected {len(self.mean)}")
        values = (values[-self.length :] - torch.tensor(self.mean)) / torch.tensor(self.std)
        return torch.cat([values.new_zeros(self.length - len(values), len(self.mean)), values])

    def fitted_to(self, config: Any) -> Self:
        """A copy for the length of a model."""
        return replace(self, length=config.max_length)

    def check(self, config: Any) -> None:
        """Raises ValueError if the output does not fit a model with this config."""
        if (self.length, len(self.mean)) != (config.max_length, config.channels):
            raise ValueError(f"the processor has length={self.length}, the model max_length={config.max_length}")

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "time_series"} | asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], files: Mapping[str, str] | None = None) -> Self:
        check_keys("preprocess", values, KEYS)
        try:
            return cls(length=int(values["length"]), mean=tuple(values["mean"]), std=tuple(values["std"]))
        except (KeyError, TypeError) as error:
            raise LoadError(f"preprocess is damaged: {error}") from None

    def files(self) -> dict[str, str]:
        return {}

    def transformers_files(self) -> dict[str, Any]:
        return {}


def html(item: Any, alt: str) -> str:
    """The first channel as an SVG line."""
    line = read(item).values[:, 0]
    heights = 40 - 40 * (line - line.min()) / (line.max() - line.min()).clamp(min=1e-6)
    points = " ".join(f"{4 * x},{y:.1f}" for x, y in enumerate(heights.tolist()))
    size = f'width="{4 * len(line)}" height="40"'
    return f'<svg {size} role="img" aria-label="{alt}"><polyline points="{points}" fill="none" stroke="black"/></svg>'


def plot(axes: Any, item: Any) -> None:
    axes.plot(read(item).values.numpy())
