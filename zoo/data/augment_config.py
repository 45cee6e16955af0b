"""The augmentation options of the recipes. Torch-free: `--help` reads this file."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Training-time augmentation of images; every image draws for itself, every batch is one tensor.

    Attributes:
        crop: Padding in pixels around the image before a random crop of the original size; 0 switches it off.
        flip: Probability of a left-right flip.
        policy: Color and geometry policy, or none.
        num_ops: Operations per image of `policy=randaugment`.
        magnitude: Strength of `policy=randaugment`, 0 to 30.
        erasing: Probability of random erasing.
        mixup: Alpha of the Beta distribution of MixUp; 0 switches it off.
        cutmix: Alpha of the Beta distribution of CutMix; 0 switches it off. With both, each image takes one of them.
        mix_probability: Share of images that are mixed when `mixup` or `cutmix` is on.
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
            raise ValueError(f"crop={self.crop}: expected a padding of 0 pixels or more")
        for name in ("flip", "erasing", "mix_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a probability from 0 to 1")
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name}={getattr(self, name)}: expected the alpha of a Beta distribution, or 0")
        if self.policy not in ("none", "randaugment", "trivialaugment"):
            raise ValueError(f"policy={self.policy!r}: expected 'none', 'randaugment' or 'trivialaugment'")
        if not 0 <= self.magnitude <= 30:
            raise ValueError(f"magnitude={self.magnitude}: expected 0 (nothing) to 30 (strongest)")
        if self.num_ops < 1:
            raise ValueError(f"num_ops={self.num_ops}: expected 1 or more; policy=none switches them off")

    @property
    def mixes(self) -> bool:
        """Whether labels become soft targets."""
        return (self.mixup > 0 or self.cutmix > 0) and self.mix_probability > 0


@dataclass(frozen=True, kw_only=True)
class SpectrogramAugmentSettings:
    """Training-time augmentation of spectrograms; every clip draws for itself, every batch is one tensor.

    Attributes:
        time_shift: Put a clip that is shorter than the model's window at any place in it, not at its beginning.
        time_stretch: Greatest change of tempo, as a share: 0.1 plays a clip at 0.9 to 1.1 of its tempo.
        pitch_shift: Greatest change of pitch, in mel bins up or down.
        gain: Greatest change of loudness, in decibels up or down.
        freq_masks: Bands of mel bins that are hidden (SpecAugment).
        freq_width: The widest of them, in mel bins.
        time_masks: Stretches of time that are hidden.
        time_width: The longest of them, in frames.
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
            raise ValueError(f"time_stretch={self.time_stretch}: expected a share of at least 0 and less than 0.9")
