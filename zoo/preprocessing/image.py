"""Image preprocessing: the transforms of timm and the image processors of transformers as one frozen dataclass.

It is saved with the weights, because a model silently loses accuracy on images of another size, crop or scale.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from zoo.preprocessing import image_io
from zoo.preprocessing.image_settings import fit_and_size, height_width, processor_settings
from zoo.utils.errors import LoadError, check_choice, check_keys, is_number
from zoo.utils.type_checks import check_types

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image

    ImageInput = Image | str | Path | bytes | Tensor | numpy.ndarray

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Pillow's numbers of its filters, as in the files of transformers.
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
MAX_CHANNELS = 4096  # hyperspectral images have some hundreds


@dataclass(frozen=True, kw_only=True)
class ImageProcessor:
    """Images -> {"pixel_values": float [B, C, H, W]}.

    An image is resized to `resize_to`, center-cropped (or padded) to `size`, multiplied by `rescale` and normalized.
    It is a PIL image, a path, the bytes of a file, or uint8: a numpy array [H, W] or [H, W, C], or a tensor [C, H, W].
    A list of images, or a uint8 tensor [B, C, H, W], is a batch; one image is a batch of one. Files and PIL images are
    turned upright.

    size, resize_to: (height, width); resize_to=None means size.
    fit: how to resize: "shortest" or "longest" matches that edge and keeps the aspect ratio, "squash" does not keep it,
        "none" does not resize.
    backend: resizing with "pil" (timm, open_clip) or "tensor" (transformers 5); values differ by a gray level or two,
        and "tensor" sees transparent images on white, where "pil" sees the color that is stored there.
    channels: 1 converts images to gray, 3 to RGB; other numbers accept arrays and tensors only.
    """

    size: tuple[int, int]
    resize_to: tuple[int, int] | None = None
    fit: Literal["shortest", "longest", "squash", "none"] = "shortest"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    rescale: float = 1 / 255
    channels: int = 3
    backend: Literal["pil", "tensor"] = "pil"

    def __post_init__(self) -> None:
        for name in ("size", "resize_to", "mean", "std"):
            if isinstance(value := getattr(self, name), Iterable) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        check_choice("fit", self.fit, ("shortest", "longest", "squash", "none"))
        check_choice("interpolation", self.interpolation, RESAMPLE.values())
        check_choice("backend", self.backend, ("pil", "tensor"))
        check_types(self)
        if min(self.size + (self.resize_to or self.size)) < 1 or self.channels < 1:
            raise ValueError(
                f"size={self.size}, resize_to={self.resize_to}, channels={self.channels}: expected at least 1"
            )
        if not is_number(self.rescale):
            raise ValueError(f"rescale={self.rescale}: expected a finite number")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) not in (1, self.channels):
                raise ValueError(
                    f"{name} has {len(values)} values for {self.channels} channels: expected 1 or {self.channels}"
                )
            if not all(is_number(value) for value in values) or (name == "std" and min(values) <= 0):
                raise ValueError(f"{name}={values}: expected finite numbers{' above 0' * (name == 'std')}")

    def __call__(self, images: "ImageInput | Sequence[ImageInput]") -> dict[str, Tensor]:
        """images: one or a list. Returns {"pixel_values": float32 [B, C, H, W]}.

        Raises ValueError for an unreadable file (named), pixels that are not uint8, or a wrong number of channels.
        """
        return {"pixel_values": torch.stack([self.normalize(self.pixels(image)) for image in as_image_list(images)])}

    def whole(
        self, images: "ImageInput | Sequence[ImageInput]", patch: int | tuple[int, int]
    ) -> dict[str, list[Tensor]]:
        """Images of native aspect ratio, without crop or padding: {"pixel_values": a list of [C, h, w]}.

        Each is resized to about as many pixels as `size` has, with edges that are multiples of `patch`. A ViT takes
        such a list and batches images of equal size.
        """
        steps = pair(patch)
        return {"pixel_values": [self._resize_whole(image, steps) for image in as_image_list(images)]}

    def _resize_whole(self, image: "ImageInput", steps: tuple[int, int]) -> Tensor:
        loaded: Any = load_image(image, self.channels, self.backend)
        original = loaded.shape[-2:] if isinstance(loaded, Tensor) else loaded.size[::-1]
        scale = math.sqrt(math.prod(self.size) / math.prod(original))
        size = tuple(max(step, round(edge * scale / step) * step) for edge, step in zip(original, steps))
        return self.normalize(replace(self, size=size, resize_to=None, fit="squash").pixels(loaded))

    def pixels(self, image: "ImageInput") -> Tensor:
        """One image, resized and cropped, before rescaling and normalization: uint8 [C, H, W]."""
        from torchvision.transforms.v2.functional import pil_to_tensor

        try:
            resized = self._crop(self._resize(load_image(image, self.channels, self.backend)))
        except ValueError as error:
            name = str(image) if isinstance(image, str | Path) else ""
            raise error if name in str(error) else ValueError(f"{name}: {error}") from None
        return resized if isinstance(resized, Tensor) else pil_to_tensor(resized)

    def keeps(self, size: tuple[int, int], channels: int) -> bool:
        """Whether `pixels` returns images of this size and number of channels as they are."""
        resized = size if self.fit == "none" else self._target_size(size)
        return resized == size == self.size and channels == self.channels

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, standard deviation) of each channel for pixels from 0 to 1, whatever `rescale` is."""
        scale = 255 * self.rescale
        mean, std = (tuple(v / scale for v in values) for values in (self.mean, self.std))
        return (mean * self.channels, std * self.channels) if len(mean) < self.channels else (mean, std)

    def _resize(self, image: Any) -> Any:
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2.functional import get_size, resize

        if self.fit == "none":
            return image
        height, width = get_size(image)
        size = self._target_size((height, width))
        image_io.check_pixels(*size, f"an image of {height:,} x {width:,}, resized to the model's size,")
        try:
            return resize(image, list(size), InterpolationMode(self.interpolation), antialias=True)
        except NotImplementedError:  # a filter that torch lacks: box, hamming, and before torch 2.12 lanczos
            return resize_by_pillow(image, size, self.interpolation)

    def _target_size(self, original: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) to which an image is resized."""
        target = self.resize_to or self.size
        if self.fit == "squash":
            return target
        if self.fit == "shortest" and target[0] == target[1]:  # torchvision truncates the long edge to an integer
            short, long = sorted(original)
            new = (target[0], int(target[0] * long / short))
            return new if original[0] <= original[1] else (new[1], new[0])
        choose = min if self.fit == "shortest" else max  # timm rounds both edges
        ratio = choose(original[0] / target[0], original[1] / target[1])
        return max(1, round(original[0] / ratio)), max(1, round(original[1] / ratio))

    def _crop(self, image: Any) -> Any:
        from torchvision.transforms.v2 import functional as F

        height, width = F.get_size(image)
        down, right = max(self.size[0] - height, 0), max(self.size[1] - width, 0)
        if down or right:
            padding = [right // 2, down // 2, (right + 1) // 2, (down + 1) // 2]
            image = F.pad(image, padding, fill=self._fill())
        if tuple(F.get_size(image)) == self.size:
            return image
        middle = round if self.backend == "pil" else int  # odd margins: torchvision rounds, transformers truncates
        top, left = (middle((edge - crop) / 2) for edge, crop in zip(F.get_size(image), self.size))
        return F.crop(image, top, left, *self.size)

    def _fill(self) -> int | list[int]:
        """The padding color: black, or with fit="longest" the mean (timm's "border")."""
        if self.fit != "longest":
            return 0
        return [round(255 * value) for value in self.statistics()[0]]

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 [..., C, H, W] -> float, rescaled and normalized."""
        mean, std = self._mean_and_std(pixels)
        return (pixels.float() * self.rescale - mean) / std

    def _mean_and_std(self, like: Tensor) -> list[Tensor]:
        return [torch.tensor(v, dtype=torch.float32, device=like.device).view(-1, 1, 1) for v in (self.mean, self.std)]

    def to_images(self, pixel_values: Tensor) -> Tensor:
        """The inverse of normalization: pixel_values [B, C, H, W] -> uint8 [B, C, H, W], rounded to the nearest level.

        For images that a model makes, such as those of an image tokenizer.
        """
        mean, std = self._mean_and_std(pixel_values)
        levels = (pixel_values.float() * std + mean) / self.rescale
        return levels.round().clamp(0, 255).to(torch.uint8)

    def fitted(self, size: tuple[int, int], channels: int) -> "ImageProcessor":
        """A copy for another image size or number of channels; the crop keeps its fraction of the image."""
        _check_channels(channels)
        fitted = self
        if size != self.size:
            edges = self.resize_to or self.size
            height, width = (round(edge * new / old) for edge, new, old in zip(edges, size, self.size))
            fitted = replace(fitted, size=size, resize_to=self.resize_to and (height, width))
        if channels != self.channels:
            mean, std = sum(self.mean) / len(self.mean), sum(self.std) / len(self.std)
            fitted = replace(fitted, channels=channels, mean=(mean,) * channels, std=(std,) * channels)
        return fitted

    def fitted_to(self, config: Any) -> "ImageProcessor":
        """A copy adapted to a model with this config."""
        return self.fitted(pair(config.image_size), config.in_chans) if hasattr(config, "image_size") else self

    # --- files ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        lists = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {"kind": "image"} | lists

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], files: Mapping[str, str] | None = None) -> "ImageProcessor":
        """The inverse of `to_dict`. An unknown or missing key raises LoadError."""
        values = {name: value for name, value in values.items() if name != "kind"}
        check_keys("preprocess", values, [field.name for field in fields(cls)])
        return cls(**values)

    @classmethod
    def from_timm(cls, pretrained: Mapping[str, Any]) -> "ImageProcessor":
        """From timm's `pretrained_cfg`; missing keys have timm's defaults."""
        channels, *edges = pretrained.get("input_size", (3, 224, 224))
        size, crop_pct = (edges[0], edges[1]), pretrained.get("crop_pct") or 0.875
        fits = {"center": "shortest", "squash": "squash", "border": "longest"}
        mode = pretrained.get("crop_mode") or "center"
        check_choice("crop_mode", mode, fits)
        mean, std = pretrained.get("mean") or IMAGENET_MEAN, pretrained.get("std") or IMAGENET_STD
        preprocess = cls(
            size=size,
            resize_to=(math.floor(size[0] / crop_pct), math.floor(size[1] / crop_pct)),
            fit=fits[mode],  # type: ignore[arg-type]
            interpolation=pretrained.get("interpolation") or "bicubic",
            mean=mean,
            std=std,
            channels=len(mean),
        )
        return preprocess.fitted(size, channels)  # a model adapted to gray images keeps mean and std of RGB

    def to_timm(self) -> dict[str, Any]:
        """The keys of timm's `pretrained_cfg`. Raises ValueError if timm cannot express these settings."""
        modes = {"shortest": "center", "squash": "squash", "longest": "border"}
        if self.fit not in modes or not math.isclose(self.rescale, 1 / 255):
            raise ValueError(f"timm's transforms cannot express fit={self.fit!r} with rescale={self.rescale}")
        return {
            "input_size": [self.channels, *self.size],
            "interpolation": self.interpolation,
            "crop_pct": self._crop_pct(),
            "crop_mode": modes[self.fit],
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def _crop_pct(self) -> float:
        """crop_pct: timm resizes to floor(size / crop_pct), which must equal `resize_to`."""
        target = self.resize_to or self.size
        for value in (self.size[0] / target[0], self.size[0] / (target[0] + 0.5), self.size[1] / (target[1] + 0.5)):
            if tuple(math.floor(edge / value) for edge in self.size) == target:
                return value
        raise ValueError(
            f"timm's transforms resize both edges by one factor and cannot express resize_to={target} with "
            f"size={self.size}"
        )

    @classmethod
    def from_transformers(
        cls, processor: Mapping[str, Any], size: tuple[int, int], channels: int = 3
    ) -> "ImageProcessor":
        """From transformers' `preprocessor_config.json`; missing keys have the defaults of the class.

        size: (height, width) of the model, used if the processor neither resizes nor crops to a fixed size.
        """
        _check_channels(channels)
        kind = processor.get("image_processor_type") or processor.get("feature_extractor_type") or "ViTImageProcessor"
        values = processor_settings(kind, {name: value for name, value in processor.items() if value is not None})
        fit, resize_to = fit_and_size(values["size"]) if values["do_resize"] else ("none", None)
        crop = height_width(values["crop_size"]) if values["do_center_crop"] else None
        final = crop or resize_to or size
        if not crop and fit == "shortest":
            raise LoadError(
                f"{kind} resizes the shortest edge without a center crop, which gives images of no fixed size"
            )
        normal = values["do_normalize"]
        return cls(
            size=final,
            resize_to=None if resize_to == final else resize_to,
            fit=fit,  # type: ignore[arg-type]
            interpolation=RESAMPLE[values["resample"]],
            mean=values["image_mean"] if normal else (0.0,) * channels,
            std=values["image_std"] if normal else (1.0,) * channels,
            rescale=values["rescale_factor"] if values["do_rescale"] else 1.0,
            channels=channels,
            backend="tensor",
        )

    def files(self) -> dict[str, str]:
        """{name: contents} of files saved beside config.json: none."""
        return {}

    def transformers_files(self) -> dict[str, Any]:
        """{name: contents} of the files that transformers reads."""
        return {"preprocessor_config.json": self.to_transformers()}

    def check(self, config: Any) -> None:
        """No check: images are checked when they are preprocessed."""

    def to_transformers(self) -> dict[str, Any]:
        """`preprocessor_config.json`. Raises ValueError if transformers cannot express these settings."""
        if self.fit == "longest":
            raise ValueError("transformers' image processors cannot express fit='longest' (timm's crop_mode 'border')")
        edges, crop = self.resize_to or self.size, {"height": self.size[0], "width": self.size[1]}
        shortest = self.fit == "shortest"
        if shortest and edges[0] != edges[1]:
            raise ValueError(f"transformers' image processors cannot resize the shortest edge to the rectangle {edges}")
        return {
            "image_processor_type": "BitImageProcessor" if shortest else "ViTImageProcessor",
            "do_resize": self.fit != "none",
            "size": {"shortest_edge": edges[0]} if shortest else {"height": edges[0], "width": edges[1]},
            "resample": resample_number(self.interpolation),
            "do_center_crop": shortest or edges != self.size,
            "crop_size": crop,
            "do_rescale": True,
            "rescale_factor": self.rescale,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "do_convert_rgb": self.channels == 3,
        }


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of an image size, which is one number or already a pair."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def load_image(image: Any, channels: int, backend: str) -> Any:
    """The image with the given number of channels: a PIL image, or for the tensor backend uint8 [C, H, W]."""
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

    if isinstance(image, str | Path | bytes | Image.Image):
        image = image_io.read(image)
    else:
        image = image_io.uint8_tensor(image)
        if image.shape[0] == channels and (backend == "tensor" or channels not in (1, 3)):
            return image
    mode = {1: "L", 3: "RGB"}.get(channels)
    if mode is None:
        count = image.shape[0] if isinstance(image, Tensor) else len(image.getbands())
        raise ValueError(
            f"the image has {count} channels, but the model takes {channels}: pass uint8 [{channels}, H, W]"
        )
    image = to_pil_image(image) if isinstance(image, Tensor) else image
    if backend == "tensor" and mode == "RGB" and image.has_transparency_data:  # timm and open_clip drop transparency
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image if image.mode == mode else image.convert(mode)
    return pil_to_tensor(image) if backend == "tensor" else image


def _check_channels(channels: Any) -> None:
    if type(channels) is not int or not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"channels={channels!r}: expected a whole number from 1 to {MAX_CHANNELS}")


def as_image_list(images: Any) -> list[Any]:
    """One image or several, a list or uint8 [I, C, H, W], as a list. Raises ValueError if there are none."""
    several = isinstance(images, list | tuple) or (isinstance(images, Tensor) and images.ndim == 4)
    if several and not len(images):
        raise ValueError("the list of images is empty: expected at least one image")
    return list(images) if several else [images]


def resample_number(interpolation: str) -> int:
    """The number that Pillow has for a filter."""
    return next(number for number, name in RESAMPLE.items() if name == interpolation)


def resize_by_pillow(image: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """A uint8 tensor [C, H, W] on any device, resized to (height, width) by a filter of Pillow, channel by channel."""
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor

    resample = resample_number(interpolation)
    channels = [Image.fromarray(channel.numpy()).resize(size[::-1], resample) for channel in image.cpu()]
    return torch.stack([pil_to_tensor(channel)[0] for channel in channels]).to(image.device)
