"""SpecAugment on a whole batch at once, on its device: each clip hides bands and stretches of its own.

What is hidden is a function of (seed, epoch, index) alone, as with images: a resumed run, another batch, other workers
or more processes see the very same clips.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.utils.keyed_random import KeyedRandom

FEATURES = {"input_values": (1, 2), "input_features": (2, 1)}  # where time and frequency lie


@dataclass(frozen=True, kw_only=True)
class SpecAugment:
    """Hides parts of normalized spectrograms in training (Park et al. 2019, https://arxiv.org/abs/1904.08779, without
    its time warp, which brought the least there). As `augment=` of `zoo.tasks.ClassificationTask`.

    freq_masks, freq_width: how many bands, and the most bins of one; widths are drawn evenly from 0 up.
    time_masks, time_width: how many stretches of time, and the most frames of one.
    time_share: a stretch takes at most this share of a clip's own frames.
    fill: what stands in a hidden place; 0 is the mean of normalized features.
    """

    freq_masks: int = 2
    freq_width: int = 24
    time_masks: int = 2
    time_width: int = 96
    time_share: float = 1.0
    fill: float = 0.0

    def __post_init__(self) -> None:
        for name in ("freq_masks", "freq_width", "time_masks", "time_width"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
        if not 0.0 <= self.time_share <= 1.0:
            raise ValueError(f"time_share={self.time_share}: expected a share from 0 to 1")

    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Any]:
        """batch: input_values [B, T, F], or input_features [B, F, T] of Whisper, and in training index [B] and epoch;
        with frames [B], how many of the T are real, stretches are drawn among those.

        Returns the batch with parts hidden, and with `targets`, the labels, where it has labels.
        """
        result = dict(batch)
        if "labels" in batch:
            result.setdefault("targets", batch["labels"])
        if not train:
            return result
        name = next((name for name in FEATURES if name in batch), None)
        if name is None or "index" not in batch or "epoch" not in batch:
            raise ValueError(
                f"SpecAugment needs input_values or input_features, index and epoch, for each clip draws by its "
                f"number; the batch has {', '.join(batch)}"
            )
        draws = KeyedRandom(seed, batch["epoch"], batch["index"])
        result[name] = self.hidden(batch[name], draws, batch.get("frames"), *FEATURES[name])
        return result

    def hidden(
        self, values: Tensor, draws: KeyedRandom, frames: Tensor | None = None, time: int = 1, frequency: int = 2
    ) -> Tensor:
        """values: [B, T, F], or with its axes where `time` and `frequency` say. frames: int64 [B]."""
        whole = torch.full(values.shape[:1], values.shape[time], device=values.device)
        length = whole if frames is None else frames.clamp(max=values.shape[time])
        most = (length * self.time_share).long().clamp(max=self.time_width)
        bins = torch.full_like(whole, values.shape[frequency])
        where = torch.zeros(1, 1, 1, dtype=torch.bool, device=values.device)
        for axis, count, size, widest in (
            (frequency, self.freq_masks, bins, bins.clamp(max=self.freq_width)),
            (time, self.time_masks, length, most),
        ):
            line = torch.arange(values.shape[axis], device=values.device)
            for i in range(count):
                purpose = f"spec/{'time' if axis == time else 'freq'}/{i}"
                wide = draws.integers(f"{purpose}/width", widest + 1)
                first = draws.integers(purpose, size - wide + 1)
                hit = (line >= first[:, None]) & (line < (first + wide)[:, None])
                where = where | (hit[:, :, None] if axis == 1 else hit[:, None])
        return values.masked_fill(where, self.fill)
