"""Images per second: whole-batch augmentation against torchvision, image by image in a DataLoader.

    python benchmarks/augment.py [batch=128] [batches=4] [rounds=7] [device=cpu|cuda] [data=synthetic]

Targets: crop + flip + normalize >= 5x; a full recipe (crop, flip, RandAugment or TrivialAugment, erasing, MixUp or
CutMix) >= 3x. Both start from the same uint8 tensor in memory and end with normalized float batches and targets.
torchvision mixes whole batches with one lambda; the zoo samples a partner and a lambda for each image.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from _measure import clock_of, options, paired
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import v2

from zoo.data import Augment, AugmentSettings, ImageDataset, ImageSplits, KeyedBatches, load_images
from zoo.data.datamodule import Loader

RECIPES = {
    "crop, flip, normalize": AugmentSettings(),
    "crop, flip, RandAugment(2, 9), erasing, MixUp or CutMix": AugmentSettings(
        policy="randaugment", erasing=0.25, mixup=0.8, cutmix=1.0
    ),
    "crop, flip, TrivialAugmentWide, erasing, MixUp or CutMix": AugmentSettings(
        policy="trivialaugment", erasing=0.25, mixup=0.8, cutmix=1.0
    ),
}


class PerSample(Dataset[Any]):
    """A dataset that applies transforms to one image at a time."""

    def __init__(self, images: ImageDataset, chain: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.images, self.chain = images, chain

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.chain(self.images.images[i]), int(self.images.labels[i])


def torchvision_loader(sets: ImageSplits, settings: AugmentSettings, batch: int) -> DataLoader[Any]:
    """A DataLoader with the same operations as torchvision transforms."""
    chain: list[Any] = [
        v2.RandomCrop(sets.train.images.shape[-1], padding=settings.crop),
        v2.RandomHorizontalFlip(settings.flip),
    ]
    if settings.policy == "randaugment":
        chain.append(v2.RandAugment(settings.num_ops, settings.magnitude))
    elif settings.policy == "trivialaugment":
        chain.append(v2.TrivialAugmentWide())
    chain += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(sets.mean, sets.std)]
    if settings.erasing:
        chain.append(v2.RandomErasing(settings.erasing))
    collate = default_collate
    if settings.mixes:
        classes = len(sets.classes)
        mix = v2.RandomChoice([v2.MixUp(alpha=0.8, num_classes=classes), v2.CutMix(alpha=1.0, num_classes=classes)])
        collate = partial(_mixed, mix)
    return DataLoader(PerSample(sets.train, v2.Compose(chain)), batch, shuffle=True, drop_last=True, collate_fn=collate)


def _mixed(mix: Callable[..., Any], samples: list[Any]) -> Any:
    return mix(*default_collate(samples))


def take(source: Iterator[Any], count: int, device: str) -> None:
    """Take `count` batches from torchvision's loader."""
    for _ in range(count):
        images, targets = next(source)
        images.to(device), targets.to(device)


def take_ours(source: Iterator[Any], augment: Augment, count: int, device: str) -> None:
    """Take `count` batches from the zoo's loader, move them to the device and augment them."""
    for step in range(count):
        augment({name: value.to(device) for name, value in next(source).items()}, seed=0, step=step, train=True)


def forever(loader: Any) -> Iterator[Any]:
    """Batches of endless epochs."""
    while True:
        yield from loader


def main() -> None:
    """Print one table for each recipe."""
    o = options(dict(batch=16, batches=1, rounds=1), batch=128, batches=4, rounds=7, device="cpu", data="synthetic")
    sets = load_images(o.data)
    for name, settings in RECIPES.items():
        ours = forever(Loader(sets.train, KeyedBatches(len(sets.train), o.batch, seed=0, step=lambda: 0)))
        theirs = forever(torchvision_loader(sets, settings, o.batch))
        augment = Augment(settings, sets.mean, sets.std, len(sets.classes))
        paired(
            {
                "torchvision, per sample": partial(take, theirs, o.batches, o.device),
                "zoo, whole batch": partial(take_ours, ours, augment, o.batches, o.device),
            },
            rounds=o.rounds,
            clock=clock_of(o.device),
            title=f"{name}; batches of {o.batch}",
            items=o.batch * o.batches,
        )


if __name__ == "__main__":
    main()
