"""SpecAugment on a whole batch, on its device, with independent masks for each clip.

The masks are a function of (seed, epoch, index) only: they do not depend on resuming, batch size, workers or the number
of processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.utils.keyed_random import KeyedRandom

FEATURES = {"input_values": (1, 2), "input_features": (2, 1)}  # input name -> axes of time and frequency


@dataclass(frozen=True, kw_only=True)
class SpecAugment:
    """SpecAugment for normalized spectrograms (Park et al. 2019, https://arxiv.org/abs/1904.08779), without time warp.

    For use as `augment=` of `zoo.tasks.ClassificationTask`.

    Attributes:
        freq_masks: Number of frequency masks.
        freq_width: Maximum width of a frequency mask in bins; widths are uniform from 0.
        time_masks: Number of time masks.
        time_width: Maximum width of a time mask in frames; widths are uniform from 0.
        time_share: Maximum width of a time mask as a fraction of the clip's frames.
        fill: Value of masked entries; 0 is the mean of normalized features.
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
            raise ValueError(f"time_share={self.time_share}: expected a fraction from 0 to 1")

    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Any]:
        """Mask the spectrograms of a batch in training.

        Args:
            batch: input_values [B, T, F], or input_features [B, F, T] of Whisper, and in training index [B] and epoch.
                frames [B] is the number of frames without padding; time masks stay within them.
            seed: Seed of the run.
            step: Not used; part of the signature of augmentations.
            train: False returns the inputs unchanged.

        Returns:
            The batch with masked inputs and, if it has labels, `targets`.
        """
        result = dict(batch)
        if "labels" in batch:
            result.setdefault("targets", batch["labels"])
        if not train:
            return result
        name = next((name for name in FEATURES if name in batch), None)
        if name is None or "index" not in batch or "epoch" not in batch:
            raise ValueError(
                f"SpecAugment needs input_values or input_features, index and epoch, because masks are sampled by "
                f"index; the batch has {', '.join(batch)}"
            )
        rng = KeyedRandom(seed, batch["epoch"], batch["index"])
        result[name] = self.hidden(batch[name], rng, batch.get("frames"), *FEATURES[name])
        return result

    def hidden(
        self, values: Tensor, rng: KeyedRandom, frames: Tensor | None = None, time: int = 1, frequency: int = 2
    ) -> Tensor:
        """Mask values [B, T, F], or with other axes `time` and `frequency`. frames: int64 [B]."""
        all_frames = torch.full(values.shape[:1], values.shape[time], device=values.device)
        length = all_frames if frames is None else frames.clamp(max=values.shape[time])
        max_width = (length * self.time_share).long().clamp(max=self.time_width)
        bins = torch.full_like(all_frames, values.shape[frequency])
        mask = torch.zeros(1, 1, 1, dtype=torch.bool, device=values.device)
        for axis, count, size, widest in (
            (frequency, self.freq_masks, bins, bins.clamp(max=self.freq_width)),
            (time, self.time_masks, length, max_width),
        ):
            positions = torch.arange(values.shape[axis], device=values.device)
            for i in range(count):
                purpose = f"spec/{'time' if axis == time else 'freq'}/{i}"
                width = rng.integers(f"{purpose}/width", widest + 1)
                first = rng.integers(purpose, size - width + 1)
                inside = (positions >= first[:, None]) & (positions < (first + width)[:, None])
                mask = mask | (inside[:, :, None] if axis == 1 else inside[:, None])
        return values.masked_fill(mask, self.fill)
