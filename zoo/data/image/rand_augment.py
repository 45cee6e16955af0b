"""RandAugment and TrivialAugment for whole batches, with operations and strengths sampled for each image.

The operations match torchvision pixel for pixel but use lookup tables. A geometric operation with nearest sampling only
moves pixels, so applying torchvision once to an image of pixel indices gives its table of source pixels; a pointwise
operation maps 256 values, so applying it to a ramp gives its table of values. One gather then handles a batch with any
mix of operations and strengths. Operations that depend on the whole image (contrast, equalize, ...) run per group.
torchvision samples one operation per call, so that each image needs calls of its own (`benchmarks/augment.py`).
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

# Maximum strengths: RandAugment (Cubuk et al. 2019) and TrivialAugment's wide space (Müller & Hutter 2021).
_MAX_STRENGTH = {
    "randaugment": {"shear": 0.3, "rotate": 30.0, "blend": 0.9, "posterize": 4},
    "trivialaugment": {"shear": 0.99, "rotate": 135.0, "blend": 0.99, "posterize": 6},
}


def strengths(policy: str, operation: str, height: int, width: int) -> list[float]:
    """Unsigned strengths of an operation, one for each of the 31 magnitude bins."""
    limits = _MAX_STRENGTH[policy]
    if operation in _WITHOUT_STRENGTH:
        return [0.0] * BINS
    if operation == "Posterize":
        return (8 - (torch.arange(BINS) / ((BINS - 1) / limits["posterize"]))).round().int().tolist()
    if operation == "Solarize":
        return torch.linspace(1.0, 0.0, BINS).tolist()
    if operation.startswith("Shear"):
        top = limits["shear"]
    elif operation.startswith("Translate"):
        side = width if operation == "TranslateX" else height
        top = 150.0 / 331.0 * side if policy == "randaugment" else 32.0
    else:
        top = limits["rotate" if operation == "Rotate" else "blend"]
    return torch.linspace(0.0, top, BINS).tolist()


def torchvision_operation(image: Tensor, operation: str, strength: float) -> Tensor:
    """Apply an operation of torchvision to uint8 [..., C, H, W] with nearest sampling and black fill."""
    from torchvision.transforms.v2 import functional as F

    angle = math.degrees(math.atan(strength)) if operation.startswith("Shear") else 0.0
    identity: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    operations: dict[str, Callable[[], Tensor]] = {
        "Identity": lambda: image,
        "ShearX": lambda: F.affine(image, **identity | {"shear": [angle, 0.0]}, center=[0, 0]),
        "ShearY": lambda: F.affine(image, **identity | {"shear": [0.0, angle]}, center=[0, 0]),
        "TranslateX": lambda: F.affine(image, **identity | {"translate": [int(strength), 0]}),
        "TranslateY": lambda: F.affine(image, **identity | {"translate": [0, int(strength)]}),
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
    return operations[operation]()


@dataclass(frozen=True)
class _Tables:
    """Lookup tables of the operations. Row `first[o] + 2 * bin + negative` belongs to operation o."""

    sources: Tensor  # int64 [R, H*W]: source pixel of each pixel; H*W is black
    values: Tensor  # uint8 [R, 256]
    factors: Tensor  # float32 [2, R, 1, 1, 1]: weights of the image and of the blended image


def _rows(policy: str, operation: str, bins: tuple[int, ...], size: tuple[int, int]) -> list[float]:
    """Signed strengths of an operation in the order of its table rows."""
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
    """RandAugment or TrivialAugment for uint8 images [B, C, H, W], sampled independently for each image.

    Args:
        name: `randaugment` (`num_ops` operations in sequence, all of strength `magnitude`) or `trivialaugment` (one
            operation of any strength).
        num_ops: Number of operations of RandAugment.
        magnitude: Magnitude bin of RandAugment, 0 to 30.
    """

    def __init__(self, name: str, *, num_ops: int = 2, magnitude: int = 9) -> None:
        if name not in _MAX_STRENGTH:
            raise ValueError(f"policy {name!r}: expected one of {', '.join(_MAX_STRENGTH)}")
        self.name = name
        self.num_ops = num_ops if name == "randaugment" else 1
        self.bins = (magnitude,) if name == "randaugment" else tuple(range(BINS))

    def sample(self, rng: KeyedRandom, step: int) -> tuple[Tensor, Tensor]:
        """(index in OPERATIONS [B], row within the operation [B]) of the step-th operation of each image."""
        operation = rng.integers(f"policy/{step}/operation", len(OPERATIONS))
        row = rng.integers(f"policy/{step}/strength", 2 * len(self.bins))
        return operation, row

    def __call__(self, images: Tensor, rng: KeyedRandom) -> Tensor:
        if images.shape[1] not in (1, 3):
            raise ValueError(f"{self.name} takes images of 1 or 3 channels, not {images.shape[1]}; use policy=none")
        tables = _tables(self.name, self.bins, (images.shape[2], images.shape[3]), images.device)
        images = images.clone()
        for step in range(self.num_ops):
            operation, row = self.sample(rng, step)
            images = _apply(images, operation, row, 2 * len(self.bins), tables)
        return images


def _apply(images: Tensor, operation: Tensor, row: Tensor, rows: int, tables: _Tables) -> Tensor:
    """Apply its own operation to each image: geometric, pointwise, then each whole-image operation."""
    start = {name: number for number, name in enumerate(OPERATIONS)}

    def group(name: str, count: int, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        nonlocal images
        number = operation - start[name]
        chosen = (number >= 0) & (number < count)
        images = _where(images, chosen, (number * rows + row).clamp(0, count * rows - 1), change)

    group("ShearX", len(_GEOMETRY), lambda x, r: _move(x, tables.sources[r]))
    group("Brightness", len(_POINTWISE), lambda x, r: tables.values[r].gather(1, x.flatten(1).long()).view_as(x))
    for offset, (name, blend) in enumerate({"Color": _color, "Contrast": _contrast, "Sharpness": _sharpen}.items()):
        weight, rest = tables.factors[:, offset * rows : (offset + 1) * rows]
        group(name, 1, lambda x, r, w=weight, rest=rest, blend=blend: blend(x, w[r], rest[r]))  # type: ignore[misc]
    group("AutoContrast", 1, lambda x, _: _stretch_contrast(x))
    group("Equalize", 1, lambda x, _: torchvision_operation(x, "Equalize", 0.0))
    return images


def _where(images: Tensor, chosen: Tensor, row: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Apply `change` to the chosen images. On a GPU it runs on all of them, because counting them would synchronize."""
    if images.device.type != "cpu":
        return torch.where(chosen[:, None, None, None], change(images, row), images)
    if len(rows := chosen.nonzero()[:, 0]):
        images[rows] = change(images[rows], row[rows])
    return images


def _move(images: Tensor, sources: Tensor) -> Tensor:
    """Gather the pixels of images [B, C, H, W] at `sources` [B, H*W]."""
    flat = torch.nn.functional.pad(images.flatten(2), (0, 1))  # the added pixel is the black one
    return flat.gather(2, sources[:, None].expand(-1, images.shape[1], -1)).view_as(images)


def _gray(images: Tensor) -> Tensor:
    """ITU-R 601-2 luma, rounded down to integers, float32 [B, 1, H, W]."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.split(1, dim=1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def _blend(images: Tensor, rest: Tensor, other: Tensor) -> Tensor:
    """images + rest * other as uint8, rounded once as by a fused multiply-add, so that all devices agree."""
    return images.double().add_(rest.double() * other.double()).float().clamp_(0, 255).to(torch.uint8)


def _color(images: Tensor, weight: Tensor, rest: Tensor) -> Tensor:
    return images.clone() if images.shape[1] == 1 else _blend(images * weight, rest, _gray(images))


def _contrast(images: Tensor, weight: Tensor, rest: Tensor) -> Tensor:
    return _blend(images * weight, rest, _gray(images).mean((1, 2, 3), keepdim=True))


def _sharpen(images: Tensor, weight: Tensor, rest: Tensor) -> Tensor:
    """Blend with a 3 x 3 blur, except at the border."""
    return _blend(images.float(), rest, _blur(images) - images)


# torchvision makes the kernel of its blur on the CPU, for which a GPU waits, and autocast would blur in bfloat16.
def _blur(images: Tensor) -> Tensor:
    """Weighted mean of each pixel (5/13) and its eight neighbors (1/13), rounded; the border stays. float32."""
    blurred = images.float()
    if min(images.shape[2:]) > 2:
        x = images.to(torch.int16)
        rows = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
        total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * x[:, :, 1:-1, 1:-1]
        blurred[:, :, 1:-1, 1:-1] = total.float().div_(13).round_()
    return blurred


def _stretch_contrast(images: Tensor) -> Tensor:
    """Scale each channel to 0 .. 255, unless it has one value; as torchvision, without its assignment by a mask."""
    low, high = images.float().amin((2, 3), keepdim=True), images.float().amax((2, 3), keepdim=True)
    flat = low == high
    scale = high.sub_(low).mul_(1.0 / 255).masked_fill_(flat, 1.0)
    return images.float().sub_(low.masked_fill_(flat, 0.0)).div_(scale).clamp_(0, 255).to(torch.uint8)
