"""Settings of transformers' image processors: defaults of their classes, and sizes in their forms."""

from collections.abc import Mapping
from typing import Any

from zoo.utils.errors import LoadError

LAPLACE_EPS = 0.1  # of the mapping of pixels before DALL-E's dVAE, (1 - 2 eps) x + eps (Ramesh et al. 2021)
CODEBOOK = "codebook_"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def clip_colors(channels: int) -> dict[str, tuple[float, ...]]:
    """mean and std of the images of CLIP, which those of BLIP and CoCa share; 0.5 unless there are three channels."""
    return dict(mean=CLIP_MEAN, std=CLIP_STD) if channels == 3 else dict(mean=(0.5,), std=(0.5,))


def processor_settings(kind: str, processor: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an image processor of class `kind`, with the defaults of the class for those that are missing.

    Of a FlavaImageProcessor those for its image codebook. Raises LoadError for an unknown class.
    """
    if not kind.startswith("FlavaImageProcessor"):
        old = {"size": processor["image_size"]} if kind.startswith("IdeficsImage") and "image_size" in processor else {}
        return {**class_defaults(kind), **old, **processor}
    values = class_defaults("ViTImageProcessor") | {
        "size": 112, "resample": 1, "do_center_crop": True, "crop_size": 112, "do_map_pixels": True,
        "image_mean": (0.0,) * 3, "image_std": (1.0,) * 3,
    }  # fmt: skip
    values |= {name.removeprefix(CODEBOOK): v for name, v in processor.items() if name.startswith(CODEBOOK)}
    if not values["do_normalize"]:
        values |= {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3}
    if values["do_map_pixels"]:  # (1 - 2 eps) (x - mean) / std + eps as another mean and std
        step = LAPLACE_EPS / (1 - 2 * LAPLACE_EPS)
        pairs = list(zip(values["image_mean"], values["image_std"], strict=True))
        values["image_mean"] = tuple(mean - step * std for mean, std in pairs)
        values["image_std"] = tuple(std / (1 - 2 * LAPLACE_EPS) for _, std in pairs)
    return values | {"do_normalize": True}


def class_defaults(kind: str) -> dict[str, Any]:
    """Defaults of transformers' image processor classes, for keys that are missing in a file."""
    common: dict[str, Any] = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    half: dict[str, Any] = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
    openai: dict[str, Any] = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    crop: dict[str, Any] = {"resample": 3, "do_center_crop": True, "crop_size": 224}
    known = {
        "ViT": half | {"size": 224, "resample": 2, "do_center_crop": False},
        "DeiT": half | crop | {"size": 256},
        "Bit": openai | crop | {"size": {"shortest_edge": 224}},
        "CLIP": openai | crop | {"size": {"shortest_edge": 224}},
        "Blip": openai | {"size": 384, "resample": 3, "do_center_crop": False},
        "Siglip": half | {"size": 224, "resample": 3, "do_center_crop": False},
        "Gemma3": half | {"size": 224, "resample": 2, "do_center_crop": False},
        "Idefics": openai | {"size": 224, "resample": 3, "do_center_crop": False},
    }
    stem = kind
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        stem = stem.removesuffix(ending)
    if stem not in known:
        raise LoadError(
            f"transformers' {kind} is not supported; supported: "
            f"{', '.join(f'{name}ImageProcessor' for name in (*known, 'Flava'))}"
        )
    return common | known[stem]


def fit_and_size(size: Any) -> tuple[str, tuple[int, int]]:
    """`fit` and `resize_to` of transformers' `size`."""
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return "shortest", (size["shortest_edge"], size["shortest_edge"])
    return "squash", height_width(size)


def height_width(size: Any) -> tuple[int, int]:
    """224 and {"height": 224, "width": 224} -> (224, 224)."""
    return (size["height"], size["width"]) if isinstance(size, Mapping) else (size, size)
