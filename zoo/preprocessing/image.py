"""From pictures to `pixel_values`: what timm's transforms and transformers' image processors do, as one frozen value.

It is saved beside the weights, because a model that is fed pictures of another size, crop or scale is quietly worse.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from zoo.utils.errors import LoadError, check_keys, did_you_mean

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image

    Picture = Image | str | Path | Tensor | numpy.ndarray

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Pillow's numbers for its filters, which transformers writes into its files.
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


@dataclass(frozen=True, kw_only=True)
class ImageProcessor:
    """Pictures -> {"pixel_values": float [B, C, H, W]}.

    A picture is resized to meet `resize_to`, cropped (or padded) around its center to `size`, multiplied by
    `rescale` and normalized. A picture is a PIL image, a path, or uint8: a numpy array [H, W] or [H, W, C], a tensor
    [C, H, W]. A list of them, or a uint8 tensor [B, C, H, W], is a batch; one picture is a batch of one.

    size, resize_to: (height, width); resize_to None = size.
    fit: how a picture meets resize_to: "shortest" or "longest" edge keeps its proportions, "squash" does not,
        "none" leaves it as it is.
    backend: whose resizing, "pil" (timm, open_clip) or "tensor" (transformers 5); they differ by a gray level or two.
    channels: 1 converts pictures to gray, 3 to RGB; with other counts only arrays and tensors are taken.
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
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(value))
        _one_of("fit", self.fit, ("shortest", "longest", "squash", "none"))
        _one_of("interpolation", self.interpolation, RESAMPLE.values())
        _one_of("backend", self.backend, ("pil", "tensor"))
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise ValueError(f"{name} has {len(getattr(self, name))} values for {self.channels} channels")

    def __call__(self, pictures: "Picture | Sequence[Picture]") -> dict[str, Tensor]:
        """pictures: one or a list. Returns {"pixel_values": float32 [B, C, H, W]}.

        Raises ValueError for a file that is no picture (it is named), floats, or another number of channels.
        """
        return {"pixel_values": torch.stack([self._one(picture) for picture in _listed(pictures)])}

    def whole(self, pictures: "Picture | Sequence[Picture]", patch: int | tuple[int, int]) -> dict[str, list[Tensor]]:
        """Pictures in their own proportions, none cropped or padded: {"pixel_values": one [C, h, w] for each}.

        Each is resized to about as many pixels as `size` has, its edges to multiples of `patch`. A ViT takes such a
        list, and puts those of one size through together.
        """
        steps = pair(patch)
        return {"pixel_values": [self._whole(picture, steps) for picture in _listed(pictures)]}

    def _whole(self, picture: "Picture", steps: tuple[int, int]) -> Tensor:
        opened: Any = _opened(picture, self.channels, self.backend)
        have = opened.shape[-2:] if isinstance(opened, Tensor) else opened.size[::-1]
        share = math.sqrt(math.prod(self.size) / math.prod(have))
        size = tuple(max(step, round(edge * share / step) * step) for edge, step in zip(have, steps))
        return self._normalize(replace(self, size=size, resize_to=None, fit="squash")._resize(opened))

    def _one(self, picture: "Picture") -> Tensor:
        pixels = self._crop(self._resize(_opened(picture, self.channels, self.backend)))
        return self._normalize(pixels)

    def _resize(self, picture: Any) -> Any:
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2.functional import get_size, resize

        if self.fit == "none":
            return picture
        height, width = get_size(picture)
        size = self._resized((height, width))
        return resize(picture, list(size), InterpolationMode(self.interpolation), antialias=True)

    def _resized(self, have: tuple[int, int]) -> tuple[int, int]:
        """The size that a picture of size `have` is resized to."""
        want = self.resize_to or self.size
        if self.fit == "squash":
            return want
        if self.fit == "shortest" and want[0] == want[1]:  # torchvision's rule: the long edge is cut to an integer
            short, long = sorted(have)
            new = (want[0], int(want[0] * long / short))
            return new if have[0] <= have[1] else (new[1], new[0])
        choose = min if self.fit == "shortest" else max  # timm's rule: both edges are rounded
        ratio = choose(have[0] / want[0], have[1] / want[1])
        return round(have[0] / ratio), round(have[1] / ratio)

    def _crop(self, picture: Any) -> Any:
        from torchvision.transforms.v2 import functional as F

        height, width = F.get_size(picture)
        down, right = max(self.size[0] - height, 0), max(self.size[1] - width, 0)
        if down or right:
            padding = [right // 2, down // 2, (right + 1) // 2, (down + 1) // 2]
            picture = F.pad(picture, padding, fill=self._fill())
        if tuple(F.get_size(picture)) == self.size:
            return picture
        middle = round if self.backend == "pil" else int  # an odd margin: torchvision rounds, transformers cuts
        top, left = (middle((have - want) / 2) for have, want in zip(F.get_size(picture), self.size))
        return F.crop(picture, top, left, *self.size)

    def _fill(self) -> int | list[int]:
        """The color of added borders: black, and where the whole picture is kept its mean (timm's "border")."""
        if self.fit != "longest":
            return 0
        return [round(255 * value) for value in self.mean]

    def _normalize(self, picture: Any) -> Tensor:
        from torchvision.transforms.v2.functional import pil_to_tensor

        pixels = picture if isinstance(picture, Tensor) else pil_to_tensor(picture)
        mean, std = (torch.tensor(value, dtype=torch.float32).view(-1, 1, 1) for value in (self.mean, self.std))
        return (pixels.float() * self.rescale - mean) / std

    def fitted(self, size: tuple[int, int], channels: int) -> "ImageProcessor":
        """The same for a model of another image size or channel count: the crop keeps its share of the picture."""
        fitted = self
        if size != self.size:
            edges = self.resize_to or self.size
            height, width = (round(edge * new / old) for edge, new, old in zip(edges, size, self.size))
            fitted = replace(fitted, size=size, resize_to=self.resize_to and (height, width))
        if channels != self.channels:
            mean, std = sum(self.mean) / len(self.mean), sum(self.std) / len(self.std)
            fitted = replace(fitted, channels=channels, mean=(mean,) * channels, std=(std,) * channels)
        return fitted

    # --- files ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
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
        """From timm's `pretrained_cfg`; what it leaves out has timm's defaults."""
        channels, *edges = pretrained.get("input_size", (3, 224, 224))
        size, share = (edges[0], edges[1]), pretrained.get("crop_pct") or 0.875
        fits = {"center": "shortest", "squash": "squash", "border": "longest"}
        mode = pretrained.get("crop_mode") or "center"
        _one_of("crop_mode", mode, fits)
        mean, std = pretrained.get("mean") or IMAGENET_MEAN, pretrained.get("std") or IMAGENET_STD
        preprocess = cls(
            size=size,
            resize_to=(math.floor(size[0] / share), math.floor(size[1] / share)),
            fit=fits[mode],  # type: ignore[arg-type]
            interpolation=pretrained.get("interpolation") or "bicubic",
            mean=mean,
            std=std,
            channels=len(mean),
        )
        return preprocess.fitted(size, channels)  # a model that was adapted to gray still has the colors' mean

    def to_timm(self) -> dict[str, Any]:
        """The keys of timm's `pretrained_cfg`. Raises ValueError where timm has no word for it."""
        modes = {"shortest": "center", "squash": "squash", "longest": "border"}
        if self.fit not in modes or not math.isclose(self.rescale, 1 / 255):
            raise ValueError(f"timm's transforms cannot express fit={self.fit!r} with rescale={self.rescale}")
        return {
            "input_size": [self.channels, *self.size],
            "interpolation": self.interpolation,
            "crop_pct": self._share(),
            "crop_mode": modes[self.fit],
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def _share(self) -> float:
        """crop_pct: the number that timm divides `size` by, and cuts to integers, to have `resize_to`."""
        want = self.resize_to or self.size
        for share in (self.size[0] / want[0], self.size[0] / (want[0] + 0.5), self.size[1] / (want[1] + 0.5)):
            if tuple(math.floor(edge / share) for edge in self.size) == want:
                return share
        raise ValueError(f"timm's transforms resize both edges by one factor: not {want} for a crop of {self.size}")

    @classmethod
    def from_transformers(
        cls, processor: Mapping[str, Any], size: tuple[int, int], channels: int = 3
    ) -> "ImageProcessor":
        """From transformers' `preprocessor_config.json`; what it leaves out has the defaults of its class.

        size: the model's own (height, width), for a processor that neither resizes nor crops to a fixed one.
        """
        kind = processor.get("image_processor_type") or processor.get("feature_extractor_type") or "ViTImageProcessor"
        values = _class_defaults(kind) | {name: value for name, value in processor.items() if value is not None}
        fit, resize_to = _hf_resize(values["size"]) if values["do_resize"] else ("none", None)
        crop = _hf_square(values["crop_size"]) if values["do_center_crop"] else None
        final = crop or resize_to or size
        if not crop and fit == "shortest":
            raise LoadError(f"{kind} resizes the shortest edge without a crop: pictures of no fixed size")
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
        """{name: contents} of files beside config.json: none, `to_dict` says all."""
        return {}

    def transformers_files(self) -> dict[str, Any]:
        """{file name: contents} of what transformers reads."""
        return {"preprocessor_config.json": self.to_transformers()}

    def check(self, config: Any) -> None:
        """Nothing: whether pictures fit is seen when they come."""

    def to_transformers(self) -> dict[str, Any]:
        """`preprocessor_config.json`. Raises ValueError where transformers has no word for it."""
        if self.fit == "longest":
            raise ValueError("transformers' image processors cannot express fit='longest' (timm's crop_mode 'border')")
        edges, crop = self.resize_to or self.size, {"height": self.size[0], "width": self.size[1]}
        shortest = self.fit == "shortest"
        if shortest and edges[0] != edges[1]:
            raise ValueError(f"transformers' image processors cannot resize the shortest edge to meet {edges}")
        return {
            "image_processor_type": "BitImageProcessor" if shortest else "ViTImageProcessor",
            "do_resize": self.fit != "none",
            "size": {"shortest_edge": edges[0]} if shortest else {"height": edges[0], "width": edges[1]},
            "resample": next(number for number, name in RESAMPLE.items() if name == self.interpolation),
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
    """An image size, one number or (height, width), as (height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _opened(picture: Any, channels: int, backend: str) -> Any:
    """The picture with the channels that the model takes: a PIL image, or for the tensor backend uint8 [C, H, W]."""
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

    if isinstance(picture, (str, Path)):
        picture = _read(Path(picture))
    if not isinstance(picture, Image.Image):
        picture = _as_tensor(picture)
        if picture.shape[0] == channels and (backend == "tensor" or channels not in (1, 3)):
            return picture
    mode = {1: "L", 3: "RGB"}.get(channels)
    if mode is None:
        given = picture.shape[0] if isinstance(picture, Tensor) else len(picture.getbands())
        raise ValueError(f"a picture has {given} channels, the model takes {channels}")
    picture = to_pil_image(picture) if isinstance(picture, Tensor) else picture
    picture = picture if picture.mode == mode else picture.convert(mode)
    return pil_to_tensor(picture) if backend == "tensor" else picture


def _read(path: Path) -> "Image":
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except FileNotFoundError:
        raise ValueError(f"there is no picture {path}") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} is not a readable picture: {error}") from None


def _as_tensor(picture: Any) -> Tensor:
    """uint8 [C, H, W] from a numpy array [H, W] or [H, W, C], or a tensor [H, W] or [C, H, W]."""
    import numpy

    if isinstance(picture, numpy.ndarray):
        tensor = torch.from_numpy(numpy.ascontiguousarray(picture))
        tensor = tensor.permute(2, 0, 1) if tensor.ndim == 3 else tensor
    elif isinstance(picture, Tensor):
        tensor = picture
    else:
        raise ValueError(f"expected a PIL image, a path, a numpy array or a tensor, got {type(picture).__name__}")
    tensor = tensor[None] if tensor.ndim == 2 else tensor
    if tensor.dtype != torch.uint8 or tensor.ndim != 3:
        raise ValueError(
            f"expected uint8 pixels of one picture, got {tensor.dtype} of shape {list(tensor.shape)}; "
            "floats that are normalized already go straight into the model"
        )
    return tensor


def _class_defaults(kind: str) -> dict[str, Any]:
    """What transformers' processor classes assume for keys that a file leaves out."""
    common: dict[str, Any] = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    half: dict[str, Any] = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
    openai: dict[str, Any] = {
        "image_mean": (0.48145466, 0.4578275, 0.40821073),
        "image_std": (0.26862954, 0.26130258, 0.27577711),
    }
    crop: dict[str, Any] = {"resample": 3, "do_center_crop": True, "crop_size": 224}
    known = {
        "ViT": half | {"size": 224, "resample": 2, "do_center_crop": False},
        "DeiT": half | crop | {"size": 256},
        "Bit": openai | crop | {"size": {"shortest_edge": 224}},
        "CLIP": openai | crop | {"size": {"shortest_edge": 224}},
        "Siglip": half | {"size": 224, "resample": 3, "do_center_crop": False},
    }
    stem = kind
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        stem = stem.removesuffix(ending)
    if stem not in known:
        raise LoadError(
            f"transformers' {kind} is not known; known: {', '.join(f'{name}ImageProcessor' for name in known)}"
        )
    return common | known[stem]


def _hf_resize(size: Any) -> tuple[str, tuple[int, int]]:
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return "shortest", (size["shortest_edge"], size["shortest_edge"])
    return "squash", _hf_square(size)


def _hf_square(size: Any) -> tuple[int, int]:
    """224 and {"height": 224, "width": 224} -> (224, 224)."""
    return (size["height"], size["width"]) if isinstance(size, Mapping) else (size, size)


def _listed(pictures: Any) -> list[Any]:
    several = isinstance(pictures, list | tuple) or (isinstance(pictures, Tensor) and pictures.ndim == 4)
    if several and not len(pictures):
        raise ValueError("no pictures given: expected one or a list of them")
    return list(pictures) if several else [pictures]


def _one_of(name: str, given: Any, known: Any) -> None:
    if given not in known:
        raise ValueError(f"{name} is {given!r}, expected one of {', '.join(known)}{did_you_mean(str(given), known)}")
