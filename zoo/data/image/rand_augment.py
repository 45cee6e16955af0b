"""RandAugment and TrivialAugment over whole batches, every image with its own operations and strengths.

The operations are torchvision's, pixel for pixel, reached by tables: a geometric operation with nearest sampling only
moves pixels, so running torchvision once over a picture of pixel numbers gives its table of sources; a pointwise one
maps 256 values, so running it over a ramp gives its table of values. One gather then serves images of any mixture
of operations and strengths. What depends on the whole image (contrast, equalize ...) is computed for its group.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from zoo.utils.keyed_random import KeyedRandom

BINS = 31
_GEOMETRY = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
_POINTWISE = ("Brightness", "Posterize", "Solarize")
_BLENDS = ("Color", "Contrast", "Sharpness")
OPERATIONS = ("Identity", *_GEOMETRY, *_POINTWISE, *_BLENDS, "AutoContrast", "Equalize")
_UNSIGNED = ("Posterize", "Solarize")
_WITHOUT_STRENGTH = ("Identity", "AutoContrast", "Equalize")

# Greatest strengths: RandAugment (Cubuk et al. 2019) and TrivialAugment's wide space (Müller & Hutter 2021).
_WIDEST = {
    "randaugment": {"shear": 0.3, "rotate": 30.0, "blend": 0.9, "posterize": 4},
    "trivialaugment": {"shear": 0.99, "rotate": 135.0, "blend": 0.99, "posterize": 6},
}


def strengths(policy: str, operation: str, height: int, width: int) -> list[float]:
    """The strengths of an operation, one for each of the 31 bins, unsigned."""
    widest = _WIDEST[policy]
    if operation in _WITHOUT_STRENGTH:
        return [0.0] * BINS
    if operation == "Posterize":
        return (8 - (torch.arange(BINS) / ((BINS - 1) / widest["posterize"]))).round().int().tolist()
    if operation == "Solarize":
        return torch.linspace(1.0, 0.0, BINS).tolist()
    if operation.startswith("Shear"):
        top = widest["shear"]
    elif operation.startswith("Translate"):
        side = width if operation == "TranslateX" else height
        top = 150.0 / 331.0 * side if policy == "randaugment" else 32.0
    else:
        top = widest["rotate" if operation == "Rotate" else "blend"]
    return torch.linspace(0.0, top, BINS).tolist()


def torchvision_operation(image: Tensor, operation: str, strength: float) -> Tensor:
    """One operation of torchvision on uint8 [..., C, H, W], nearest sampling, black outside."""
    from torchvision.transforms.v2 import functional as F

    turn = math.degrees(math.atan(strength)) if operation.startswith("Shear") else 0.0
    still: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    change: dict[str, Callable[[], Tensor]] = {
        "Identity": lambda: image,
        "ShearX": lambda: F.affine(image, **still | {"shear": [turn, 0.0]}, center=[0, 0]),
        "ShearY": lambda: F.affine(image, **still | {"shear": [0.0, turn]}, center=[0, 0]),
        "TranslateX": lambda: F.affine(image, **still | {"translate": [int(strength), 0]}),
        "TranslateY": lambda: F.affine(image, **still | {"translate": [0, int(strength)]}),
        "Rotate": lambda: F.rotate(image, strength),
        "Brightness": lambda: F.adjust_brightness(image, 1.0 + strength),
        "Posterize": lambda: F.posterize(image, int(strength)),
        "Solarize": lambda: F.solarize(image, 255.0 * strength),
        "Color": lambda: F.adjust_saturation(image, 1.0 + strength),
        "Contrast": lambda: F.adjust_contrast(image, 1.0 + strength),
        "Sharpness": lambda: F.adjust_sharpness(image, 1.0 + strength),
        "AutoContrast": lambda: F.autocontrast(image),
        "Equalize": lambda: F.equalize(image),
    }
    return change[operation]()


@dataclass(frozen=True)
class _Tables:
    """What the operations do, row by row. Row `first[o] + 2 * bin + negative` belongs to operation o."""

    sources: Tensor  # int64 [R, H*W]: the pixel that each pixel takes; H*W stands for black
    values: Tensor  # uint8 [R, 256]
    factors: Tensor  # float32 [2, R, 1, 1, 1]: the share of the image, and of what it is blended with


def _rows(policy: str, operation: str, bins: tuple[int, ...], size: tuple[int, int]) -> list[float]:
    """Signed strengths of an operation in the order of its rows."""
    levels = strengths(policy, operation, *size)
    sign = 1.0 if operation in _UNSIGNED else -1.0
    return [value for each in bins for value in (levels[each], sign * levels[each])]


@cache
def _tables(policy: str, bins: tuple[int, ...], size: tuple[int, int], device: torch.device) -> _Tables:
    height, width = size
    numbers = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, height, width)
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 256)
    sources = [
        torchvision_operation(numbers, operation, strength).long().flatten() - 1
        for operation in _GEOMETRY
        for strength in _rows(policy, operation, bins, size)
    ]
    values = [
        torchvision_operation(ramp, operation, strength).flatten()
        for operation in _POINTWISE
        for strength in _rows(policy, operation, bins, size)
    ]
    factors = [1.0 + strength for operation in _BLENDS for strength in _rows(policy, operation, bins, size)]
    source = torch.stack(sources)
    return _Tables(
        source.masked_fill_(source < 0, height * width).to(device),
        torch.stack(values).to(device),
        torch.tensor([factors, [1.0 - factor for factor in factors]], device=device)[..., None, None, None],
    )


class AugmentPolicy:
    """uint8 images [B, C, H, W] -> uint8 images, each changed by operations of its own draws.

    name: `randaugment` (operations in a row, one strength for all) or `trivialaugment` (one operation, any strength).
    """

    def __init__(self, name: str, *, num_ops: int = 2, magnitude: int = 9) -> None:
        if name not in _WIDEST:
            raise ValueError(f"policy {name!r}: expected one of {', '.join(_WIDEST)}")
        self.name = name
        self.num_ops = num_ops if name == "randaugment" else 1
        self.bins = (magnitude,) if name == "randaugment" else tuple(range(BINS))

    def draw(self, draws: KeyedRandom, turn: int) -> tuple[Tensor, Tensor]:
        """The operation's number in OPERATIONS [B] and its row within the operation [B] for the turn-th change."""
        operation = draws.integers(f"policy/{turn}/operation", len(OPERATIONS))
        row = draws.integers(f"policy/{turn}/strength", 2 * len(self.bins))
        return operation, row

    def __call__(self, images: Tensor, draws: KeyedRandom) -> Tensor:
        if images.shape[1] not in (1, 3):
            raise ValueError(f"{self.name} takes images of 1 or 3 channels, not {images.shape[1]}; use policy=none")
        tables = _tables(self.name, self.bins, (images.shape[2], images.shape[3]), images.device)
        images = images.clone()
        for turn in range(self.num_ops):
            operation, row = self.draw(draws, turn)
            images = _change(images, operation, row, 2 * len(self.bins), tables)
        return images


def _change(images: Tensor, operation: Tensor, row: Tensor, rows: int, tables: _Tables) -> Tensor:
    """Apply to each image its own operation: those moved, those mapped, then each kind that needs the image."""
    start = {name: number for number, name in enumerate(OPERATIONS)}

    def group(name: str, count: int, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        nonlocal images
        number = operation - start[name]
        chosen = (number >= 0) & (number < count)
        images = _where(images, chosen, (number * rows + row).clamp(0, count * rows - 1), change)

    group("ShearX", len(_GEOMETRY), lambda x, r: _move(x, tables.sources[r]))
    group("Brightness", len(_POINTWISE), lambda x, r: tables.values[r].gather(1, x.flatten(1).long()).view_as(x))
    for offset, (name, blend) in enumerate({"Color": _color, "Contrast": _contrast, "Sharpness": _sharpen}.items()):
        share, rest = tables.factors[:, offset * rows : (offset + 1) * rows]
        group(name, 1, lambda x, r, share=share, rest=rest, blend=blend: blend(x, share[r], rest[r]))  # type: ignore[misc]
    group("AutoContrast", 1, lambda x, _: torchvision_operation(x, "AutoContrast", 0.0))
    group("Equalize", 1, lambda x, _: torchvision_operation(x, "Equalize", 0.0))
    return images


def _where(images: Tensor, chosen: Tensor, row: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Change the chosen images. On a GPU all are computed and selected: asking how many are chosen would stall it."""
    if images.device.type != "cpu":
        return torch.where(chosen[:, None, None, None], change(images, row), images)
    if len(rows := chosen.nonzero()[:, 0]):
        images[rows] = change(images[rows], row[rows])
    return images


def _move(images: Tensor, sources: Tensor) -> Tensor:
    """Pixels [B, C, H, W] taken from the places in `sources` [B, H*W]."""
    flat = torch.nn.functional.pad(images.flatten(2), (0, 1))  # the added pixel is the black one
    return flat.gather(2, sources[:, None].expand(-1, images.shape[1], -1)).view_as(images)


def _gray(images: Tensor) -> Tensor:
    """ITU-R 601-2 luma in whole numbers, float32 [B, 1, H, W]."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.split(1, dim=1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def _blend(images: Tensor, rest: Tensor, other: Tensor) -> Tensor:
    """images + rest * other as uint8, rounded once as a fused multiply-add does: the same gray level on any device."""
    return images.double().add_(rest.double() * other.double()).float().clamp_(0, 255).to(torch.uint8)


def _color(images: Tensor, share: Tensor, rest: Tensor) -> Tensor:
    return images.clone() if images.shape[1] == 1 else _blend(images * share, rest, _gray(images))


def _contrast(images: Tensor, share: Tensor, rest: Tensor) -> Tensor:
    return _blend(images * share, rest, _gray(images).mean((1, 2, 3), keepdim=True))


def _sharpen(images: Tensor, share: Tensor, rest: Tensor) -> Tensor:
    """Away from a 3 x 3 blur, or towards it; the border stays. torchvision's factor 0 is the blur itself."""
    return _blend(images.float(), rest, torchvision_operation(images, "Sharpness", -1.0).float() - images)
