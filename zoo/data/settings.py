"""What a recipe says about its data and augmentation. Torch-free: `--help` reads this file."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Training-time augmentation of images; every image draws for itself, every batch is one tensor.

    Attributes:
        crop: Padding in pixels around the image before a random crop of the original size; 0 switches it off.
        flip: Probability of a left-right flip.
        policy: Colour and geometry policy, or none.
        operations: Operations per image of `policy=randaugment`.
        magnitude: Strength of `policy=randaugment`, 0 to 30.
        erasing: Probability of random erasing.
        mixup: Alpha of the Beta distribution of MixUp; 0 switches it off.
        cutmix: Alpha of the Beta distribution of CutMix; 0 switches it off. With both, each image takes one of them.
        mix_probability: Share of images that are mixed when `mixup` or `cutmix` is on.
    """

    crop: int = 4
    flip: float = 0.5
    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    operations: int = 2
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
        if self.operations < 1:
            raise ValueError(f"operations={self.operations}: expected 1 or more; policy=none switches them off")

    @property
    def mixes(self) -> bool:
        """Whether labels become soft targets."""
        return (self.mixup > 0 or self.cutmix > 0) and self.mix_probability > 0


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the images come from and how they are fed.

    Attributes:
        name: `auto` (CIFAR-10, and the embedded set where it cannot be had), `cifar10`, `embedded`, or a folder
            with one sub-folder per class.
        data_dir: Folder that holds `cifar10/{train,test}.parquet`; without it `ZOO_DATA_DIR`, then the hub.
        on_error: What a broken image does: `stop` names it and ends, `skip` names it and goes on without it.
        batch_size: Images per optimizer step, over all devices and accumulation steps.
        workers: Loader processes; 0 gathers batches from one tensor in memory, which is the fastest for small images.
        train_size: Use only so many training images (a seeded, class-balanced choice); 0 takes all.
        test_size: The same for the test images.
        size: Height and width that images of a user's folder are resized to.
        augment: Augmentation of the training images.
    """

    name: str = "auto"
    data_dir: str | None = None
    on_error: Literal["stop", "skip"] = "stop"
    batch_size: int = 128
    workers: int = 0
    train_size: int = 0
    test_size: int = 0
    size: int = 32
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "skip"):
            raise ValueError(f"on_error={self.on_error!r}: expected 'stop' or 'skip'")
        for name, least in (("batch_size", 1), ("size", 1), ("workers", 0), ("train_size", 0), ("test_size", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected {least} or more")
