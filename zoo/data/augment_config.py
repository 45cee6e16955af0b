"""Augmentation options of the recipes. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Augmentation of training images, sampled independently for each image.

    Attributes:
        crop: Padding in pixels before a random crop of the original size. 0 disables it.
        flip: Probability of a horizontal flip.
        policy: Automatic augmentation policy: `none`, `randaugment` or `trivialaugment`.
        num_ops: Number of operations per image (`policy=randaugment` only).
        magnitude: Magnitude of the operations, 0 to 30 (`policy=randaugment` only).
        erasing: Probability of random erasing.
        mixup: Alpha of the Beta distribution of MixUp, which mixes images of the same micro-batch. 0 disables it.
        cutmix: Alpha of the Beta distribution of CutMix. 0 disables it. If both are set, each image uses one of the
            two.
        mix_probability: Probability that an image is mixed when `mixup` or `cutmix` is set.
    """

    crop: int = 4
    flip: float = 0.5
    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    num_ops: int = 2
    magnitude: int = 9
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0

    def __post_init__(self) -> None:
        if self.crop < 0:
            raise ValueError(f"crop={self.crop}: expected a padding of at least 0 pixels")
        for name in ("flip", "erasing", "mix_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a probability from 0 to 1")
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name}={getattr(self, name)}: expected the alpha of a Beta distribution, or 0")
        if self.policy not in ("none", "randaugment", "trivialaugment"):
            raise ValueError(f"policy={self.policy!r}: expected 'none', 'randaugment' or 'trivialaugment'")
        if not 0 <= self.magnitude <= 30:
            raise ValueError(f"magnitude={self.magnitude}: expected 0 (no effect) to 30 (strongest)")
        if self.num_ops < 1:
            raise ValueError(f"num_ops={self.num_ops}: expected 1 or more; policy=none disables them")

    @property
    def mixes(self) -> bool:
        """Whether MixUp or CutMix is on, so that targets are soft."""
        return (self.mixup > 0 or self.cutmix > 0) and self.mix_probability > 0


@dataclass(frozen=True, kw_only=True)
class SpectrogramAugmentSettings:
    """Augmentation of training spectrograms, sampled independently for each clip.

    Attributes:
        time_shift: Place a clip that is shorter than the input window at a random position instead of at the start.
        time_stretch: Maximum tempo change, as a fraction: 0.1 plays clips at 0.9 to 1.1 times their tempo.
        pitch_shift: Maximum pitch shift in mel bins, up or down.
        gain: Maximum volume change in decibels, up or down.
        freq_masks: Number of frequency masks (SpecAugment).
        freq_width: Maximum width of a frequency mask in mel bins.
        time_masks: Number of time masks (SpecAugment).
        time_width: Maximum width of a time mask in frames.
    """

    time_shift: bool = True
    time_stretch: float = 0.15
    pitch_shift: int = 2
    gain: float = 6.0
    freq_masks: int = 2
    freq_width: int = 8
    time_masks: int = 2
    time_width: int = 10

    def __post_init__(self) -> None:
        for name in ("pitch_shift", "gain", "freq_masks", "freq_width", "time_masks", "time_width"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
        if not 0.0 <= self.time_stretch < 0.9:
            raise ValueError(f"time_stretch={self.time_stretch}: expected a fraction of at least 0 and less than 0.9")
