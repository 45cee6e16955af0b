"""A classifier of synthetic scenes, trained on rendered ones, that says what is in generated images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.data.synthetic.object_scenes import COLORS, SHAPES, ObjectScene, make_object_scenes
from zoo.tasks.schedule import cosine_between
from zoo.utils.atomic import write_atomic

PARTS = (2, 2, len(COLORS), len(SHAPES), len(COLORS), len(SHAPES))
"""Choices of each part: the number of objects, the axis of their relation, color and shape of the first and second."""
SCENES = {"train": 9000, "test": 6000}  # so that the classifier knows all combinations, those held out, too
OWN_SEED = 77  # of its scenes: none of them are those of a run
BATCH_SIZE, PEAK_LR = 64, 3e-3
BLUR, NOISE = 0.3, 0.06  # at most: share of each neighbor in a blurred pixel, standard deviation of noise from 0 to 1
MISSING = -100


class SceneClassifier(nn.Module):
    """A small convolutional network: pixels [B, 3, H, W], from 0 to 1, to the scores of all parts, [B, 24]."""

    def __init__(self, size: int, widths: Sequence[int] = (24, 48, 96)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
            before = width
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.hidden = nn.Linear(before * (size // 2 ** len(widths)) ** 2, 128)
        self.scores = nn.Linear(128, sum(PARTS))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.scores(self.hidden(self.features(pixels)).relu())

    @torch.no_grad()
    def scenes(self, images: Tensor) -> list[ObjectScene]:
        """What is in images, uint8 [B, 3, H, W]. The sizes of the objects are not recognized; they are 0."""
        self.eval()
        device = self.scores.weight.device
        found = [self(part.to(device).float() / 255).split(PARTS, 1) for part in images.split(256)]
        choices = torch.cat([torch.stack([scores.argmax(1) for scores in parts], 1) for parts in found]).tolist()
        return [ObjectScene(((0, *row[2:4]), (0, *row[4:6]))[: row[0] + 1], row[1] if row[0] else 0) for row in choices]


def parts_of(scene: ObjectScene) -> list[int]:
    """The right choice of each part of a scene; `MISSING` where there is no second object."""
    first = list(scene.objects[0][1:])
    if len(scene.objects) == 1:
        return [0, MISSING, *first, MISSING, MISSING]
    return [1, scene.axis, *first, *scene.objects[1][1:]]


def same_objects(one: ObjectScene, other: ObjectScene) -> bool:
    """Whether two scenes have objects of the same colors and shapes, in any order."""
    return sorted(obj[1:] for obj in one.objects) == sorted(obj[1:] for obj in other.objects)


def same_scene(one: ObjectScene, other: ObjectScene) -> bool:
    """Whether two scenes have the same objects in the same relation; their sizes do not matter."""
    same = [obj[1:] for obj in one.objects] == [obj[1:] for obj in other.objects]
    return same and (len(one.objects) == 1 or one.axis == other.axis)


def scene_classifier(file: Path, *, size: int, steps: int, seed: int, device: Any = "cpu") -> SceneClassifier:
    """The classifier for images of `size` pixels: read from a file that an earlier call wrote with the same arguments,
    or trained on new scenes, and written there.
    """
    made_with = {"size": size, "steps": steps, "seed": seed}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SceneClassifier(size)
    if file.is_file():
        stored = torch.load(file, weights_only=True, map_location="cpu")
        if stored["made_with"] == made_with:
            model.load_state_dict(stored["weights"])
            return model.to(device).eval()
    train(model.to(device), steps, seed, size)
    weights = {name: value.cpu() for name, value in model.state_dict().items()}
    write_atomic(file, lambda part: torch.save({"made_with": made_with, "weights": weights}, part))
    return model


def train(model: SceneClassifier, steps: int, seed: int, size: int) -> None:
    """Train on scenes of all combinations, with blur and noise as generated images may have, by AdamW, a cosine."""
    parts = [make_object_scenes(split, min(count, steps * BATCH_SIZE), seed=OWN_SEED, size=size)
             for split, count in SCENES.items()]  # fmt: skip
    images = torch.cat([part.images for part in parts])
    labels = torch.tensor([parts_of(scene) for part in parts for scene in part.scenes])
    generator = torch.Generator().manual_seed(seed)
    device = model.scores.weight.device
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=0.05)
    model.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = cosine_between(step, steps, PEAK_LR, 0.0)
        rows = torch.randint(len(images), (BATCH_SIZE,), generator=generator)
        pixels = degraded(images[rows], generator).to(device)
        scores = model(pixels).split(PARTS, 1)
        right = labels[rows].to(device)
        losses = [F.cross_entropy(part, right[:, i], ignore_index=MISSING, reduction="sum")
                  for i, part in enumerate(scores)]  # fmt: skip
        optimizer.zero_grad(set_to_none=True)
        (torch.stack(losses).sum() / len(rows)).backward()
        optimizer.step()
    model.eval()


def degraded(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images, uint8 [B, 3, H, W], from 0 to 1, each blurred to a degree of its own, with noise of its own strength."""
    x = images.float() / 255
    blur = BLUR * torch.rand(len(x), 1, 1, 1, generator=generator)
    for dim in (2, 3):
        last = x.shape[dim] - 1
        before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, last)], dim)
        after = torch.cat([x.narrow(dim, 1, last), x.narrow(dim, last, 1)], dim)
        x = (1 - 2 * blur) * x + blur * (before + after)
    strength = NOISE * torch.rand(len(x), 1, 1, 1, generator=generator)
    return x + strength * torch.randn(x.shape, generator=generator)
