"""open_clip's format: open_clip_config.json with `model_cfg` and `preprocess_cfg`."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.checkpoints.formats import open_clip_coca, tokenizer, vocabulary_files
from zoo.checkpoints.formats.checkpoint import Checkpoint
from zoo.checkpoints.formats.transformers_multi_tower import multimodal_processor
from zoo.models.base import Model
from zoo.models.clip_text.mapping import OPEN_CLIP_TEXT
from zoo.models.config import Config
from zoo.models.family import Family
from zoo.models.mapping.config_keys import CheckpointMapping, differences
from zoo.models.mapping.multi_tower import MultiTowerMapping, TowerMapping
from zoo.models.registry import family
from zoo.models.vit.clip_mapping import OPEN_CLIP_VISION
from zoo.models.vit.mapping import TIMM, sizes
from zoo.models.vit.model import VARIANTS
from zoo.preprocessing.image import ImageProcessor, pair
from zoo.preprocessing.image_settings import CLIP_MEAN, CLIP_STD
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.text_cleaning import MODES
from zoo.utils.errors import LoadError
from zoo.utils.files import read_json

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# Defaults of preprocess_cfg.
DEFAULTS: dict[str, Any] = {
    "size": 224,
    "mode": "RGB",
    "mean": [*CLIP_MEAN],
    "std": [*CLIP_STD],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
MODEL_KEYS = (
    "embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale", "init_logit_bias",
    "nonscalar_logit_scale",
)  # fmt: skip


def read(folder: Path) -> Checkpoint:
    file = folder / CONFIG
    values = read_json(file)
    model = values.get("model_cfg")
    if not isinstance(model, Mapping):
        raise LoadError(f"{file} has no object 'model_cfg' that describes the model: it is not a config of open_clip")
    if missing := [name for name in ("embed_dim", "vision_cfg", "text_cfg") if name not in model]:
        raise LoadError(f"{file}: model_cfg lacks {missing[0]!r}; expected 'embed_dim', 'vision_cfg' and 'text_cfg'")
    if "multimodal_cfg" in model:
        return read_coca(folder, values, file)
    towers = towers_of(model, file)
    own = family("siglip" if towers.loss == "siglip" else "clip")
    config: Any = towers.config(own, spread(model), file)
    image = read_image_processor(values.get("preprocess_cfg") or {}, pair(config.parts["image"].image_size), file)
    text, notes = read_tokenizer(folder, model["text_cfg"], config.parts["text"])
    return Checkpoint(
        path=folder,
        format="open_clip",
        family=own,
        config=config,
        preprocess=multimodal_processor(image, text, config),
        mapping=towers,
        architecture="CLIP",
        notes=notes,
    )


def read_coca(folder: Path, values: Mapping[str, Any], file: Path) -> Checkpoint:
    """A folder of CoCa."""
    own, model = family("coca"), values["model_cfg"]
    config: Any = open_clip_coca.read_config(own, model, file)
    image = read_image_processor(values.get("preprocess_cfg") or {}, pair(config.image_size), file)
    text, notes = read_tokenizer(folder, model["text_cfg"], config)
    config = open_clip_coca.with_ends(config, text)
    if text is not None:  # texts have a fixed length, without a mask
        text = replace(text, mask=False, multiple=text.max_length)
    return Checkpoint(
        path=folder,
        format="open_clip",
        family=own,
        config=config,
        preprocess=MultimodalProcessor(image=image, text=text),
        mapping=open_clip_coca.OPEN_CLIP,
        architecture="CoCa",
        notes=notes,
    )


# --- Towers -----------------------------------------------------------------------------------------------------------


def towers_of(model: Mapping[str, Any], file: Path) -> MultiTowerMapping:
    """The mapping of the towers in a `model_cfg`. Raises LoadError naming what is not supported."""
    if unknown := [name for name in model if name not in MODEL_KEYS]:
        raise LoadError(f"{file}: model_cfg has {unknown[0]}={model[unknown[0]]!r}, which is not supported")
    vision, text = model.get("vision_cfg", {}), model.get("text_cfg", {})
    if name := text.get("hf_model_name"):
        raise LoadError(f"{file}: text towers from transformers (hf_model_name={name!r}) are not supported")
    if isinstance(vision.get("layers"), list):
        raise LoadError(f"{file}: CLIP's ResNets (layers={vision['layers']}) are not supported, only ViTs")
    timm_proj = vision.get("timm_proj", "linear")
    if (timm_name := vision.get("timm_model_name")) and timm_proj not in ("none", ""):
        raise LoadError(f"{file}: timm_proj={timm_proj!r} after {timm_name!r} is not supported, only 'none'")
    kind = text.get("proj_type", "linear")
    if kind not in ("linear", "none"):
        raise LoadError(f"{file}: proj_type={kind!r} is not supported, only 'linear' or 'none'")
    proj = None if kind == "none" else "affine" if text.get("proj_bias") else "linear"
    return make_towers(
        timm=bool(timm_name),
        custom=bool(model.get("custom_text")),
        proj=proj,
        bias=model.get("init_logit_bias") is not None,
        scalar=not model.get("nonscalar_logit_scale", False),
    )


def make_towers(*, timm: bool, custom: bool, proj: str | None, bias: bool, scalar: bool = True) -> MultiTowerMapping:
    """The mapping of open_clip's CLIP and SigLIP models.

    timm: the image tower is a timm model. custom: the text tower is a module of its own. proj: projection of the text
    features. bias: there is a logit_bias (SigLIP). scalar: scale and bias are scalars, not tensors of shape [1].
    """
    text = "text." if custom else ""
    lines = [f"{name} = {name}" + ("" if scalar else " row0") for name in ("logit_scale", "logit_bias")]
    if not timm:
        lines.append("image_proj.weight = visual.proj T")
    if proj == "linear":
        lines.append(f"text_proj.weight = {text}text_projection T")
    elif proj == "affine":
        lines.append(f"text_proj.@ = {text}text_projection.@")
    image = TowerMapping(
        key="vision_cfg",
        prefix="visual.trunk." if timm else "visual.",
        family="vit",
        mapping=timm_tower() if timm else OPEN_CLIP_VISION,
        proj=None if timm else "linear",
    )
    text_tower = TowerMapping(key="text_cfg", prefix=text, family="clip_text", mapping=OPEN_CLIP_TEXT, proj=proj)
    extra: dict[str, Any] = {"custom_text": True} if custom else {}
    extra |= {"init_logit_bias": -10.0} if bias else {}
    return MultiTowerMapping(
        name="open_clip",
        architecture="open_clip's CLIP",
        parts={"image": image, "text": text_tower},
        table="\n".join(lines) + "\n",
        loss="siglip" if bias else "clip",
        read=lambda values: {"width": values["embed_dim"]},
        write=lambda config: {"embed_dim": config.width} | extra,
    )


def timm_tower() -> CheckpointMapping:
    """The mapping of an image tower that timm builds by name."""

    def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
        name, pool = theirs["timm_model_name"], theirs.get("timm_pool", "avg")
        if name not in VARIANTS or VARIANTS[name].get("pool") != "map" or pool != "map":
            known = ", ".join(known_towers())
            raise ValueError(f"timm_model_name={name!r} with timm_pool={pool!r} is not supported; supported: {known}")
        size = VARIANTS[name].get("image_size", 224)
        if "image_size" in theirs and sizes(theirs["image_size"]) != sizes(size):
            raise ValueError(f"image_size={theirs['image_size']} for {name}, expected {size}, its size in timm")
        return VARIANTS[name] | {"num_classes": 0, "head": "pool"}

    def write(config: Any) -> dict[str, Any]:
        for name in known_towers():
            if not differences(config, type(config)(**VARIANTS[name])):
                return {
                    "image_size": config.image_size,
                    "timm_model_name": name,
                    "timm_model_pretrained": False,
                    "timm_pool": "map",
                    "timm_proj": "none",
                }
        nearest = min(known_towers(), key=lambda name: len(differences(config, type(config)(**VARIANTS[name]))))
        lost = ", ".join(differences(config, type(config)(**VARIANTS[nearest])))
        raise ValueError(
            f"open_clip cannot express {lost} in an image tower with attention pooling: it takes such towers from "
            f"timm, and the nearest is {nearest}"
        )

    def known_towers() -> list[str]:
        return [name for name, fields in VARIANTS.items() if fields.get("pool") == "map"]

    return CheckpointMapping(name="open_clip's image tower", keys="", table=TIMM.table, read=read, write=write)


def spread(model: Mapping[str, Any]) -> dict[str, Any]:
    """A `model_cfg` with its setting for both towers (quick_gelu) copied to the config of each."""
    both = {"quick_gelu": bool(model.get("quick_gelu"))}
    return {**model, "vision_cfg": both | dict(model["vision_cfg"]), "text_cfg": both | dict(model["text_cfg"])}


def gather(values: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `spread`. Raises ValueError for towers with different activations."""
    parts = {key: dict(values[key]) for key in ("vision_cfg", "text_cfg")}
    quick = [bool(part.pop("quick_gelu", False)) for key, part in parts.items() if "timm_model_name" not in part]
    if len(set(quick)) > 1:
        raise ValueError("open_clip cannot express act='quick_gelu' in one tower alone: both towers have the same act")
    return {**values, **parts} | ({"quick_gelu": True} if quick[-1] else {})


def describe(model: Model, own: Family) -> tuple[dict[str, Any], Any, Config]:
    """(open_clip_config.json, mapping, the config). Raises ValueError naming what open_clip cannot express."""
    config: Any = model.config
    if own.name == "coca":
        values, mapping = open_clip_coca.describe(own, config)
        return with_preprocessing(model, values), mapping, config
    text = config.towers.get("text")
    image = config.towers.get("image")
    timm = image is not None and getattr(image.config, "pool", None) == "map"
    proj = None if text is None else text.proj
    towers = make_towers(timm=timm, custom=timm or proj != "linear", proj=proj, bias=config.loss == "siglip")
    values = gather(towers.values(own, config))
    if proj != "linear":
        values["text_cfg"] |= {"proj_bias": True} if proj == "affine" else {"proj_type": "none"}
    return with_preprocessing(model, values), towers, config


def with_preprocessing(model: Model, values: dict[str, Any]) -> dict[str, Any]:
    """open_clip_config.json for a `model_cfg`."""
    if getattr(model.preprocess, "text", None) is not None:
        values["text_cfg"] |= tokenizer_keys(model.preprocess.text)
    processor = getattr(model.preprocess, "image", None)
    preprocess = {} if processor is None else image_processor_values(processor)
    return {"model_cfg": values, "preprocess_cfg": preprocess}


# --- Preprocessing ----------------------------------------------------------------------------------------------------


def read_image_processor(settings: Mapping[str, Any], size: tuple[int, int], file: Path) -> ImageProcessor:
    """open_clip's transform for evaluation. Missing settings have open_clip's defaults, the size that of the model."""
    if unknown := [name for name in settings if name not in DEFAULTS]:
        raise LoadError(f"{file}: preprocess_cfg has {unknown[0]}={settings[unknown[0]]!r}, which is not supported")
    values = DEFAULTS | {"size": list(size)} | {name: value for name, value in settings.items() if value is not None}
    if values["mode"] != "RGB" or (values["resize_mode"] == "longest" and values["fill_color"] != 0):
        raise LoadError(
            f"{file}: preprocess_cfg with mode={values['mode']!r} and fill_color={values['fill_color']} is not "
            f"supported, only 'RGB' and, for resize_mode 'longest', 0"
        )
    if values["resize_mode"] not in ("shortest", "squash"):
        raise LoadError(f"{file}: resize_mode={values['resize_mode']!r} is not supported, only 'shortest' and 'squash'")
    return ImageProcessor(
        size=pair(values["size"]),
        fit=values["resize_mode"],
        interpolation=values["interpolation"],
        mean=values["mean"],
        std=values["std"],
    )


def image_processor_values(processor: ImageProcessor) -> dict[str, Any]:
    """The contents of `preprocess_cfg`. Raises ValueError for settings that open_clip cannot express."""
    odd = processor.resize_to not in (None, processor.size) or processor.fit not in ("shortest", "squash")
    if odd or processor.channels != 3 or not math.isclose(processor.rescale, 1 / 255):
        raise ValueError(
            f"open_clip's transforms cannot express fit={processor.fit!r}, resize_to={processor.resize_to} and "
            f"{processor.channels} channels for images of size {processor.size}"
        )
    square = processor.size[0] == processor.size[1]
    return {
        "size": processor.size[0] if square else list(processor.size),
        "mode": "RGB",
        "mean": list(processor.mean),
        "std": list(processor.std),
        "interpolation": processor.interpolation,
        "resize_mode": processor.fit,
    }


def read_tokenizer(folder: Path, text: Mapping[str, Any], config: Any) -> tuple[TextProcessor | None, list[str]]:
    """(the tokenizer of a folder, or else CLIP's from the open_clip package, with its cleaning of texts; notes)."""
    options = {"tokenizer_mode": text.get("tokenizer_mode")} | dict(text.get("tokenizer_kwargs") or {})
    clean = options.pop("clean", "whitespace" if text.get("hf_tokenizer_name") else "lower")
    if clean not in MODES:
        raise LoadError(f"{folder / CONFIG}: tokenizer_kwargs has clean={clean!r}, expected one of {', '.join(MODES)}")
    if odd := next((name for name, value in options.items() if value), None):
        return None, [f"model.preprocess has no tokenizer: text_cfg has {odd}={options[odd]!r}, which is not supported"]
    found, notes = tokenizer.read(folder, config, "clip")
    if found is None and not text.get("hf_tokenizer_name") and (own := vocabulary_files.open_clip_tokenizer()):
        special = vocabulary_files.OPEN_CLIP_SPECIAL
        found, notes = TextProcessor(tokenizer=own, special=special, max_length=config.max_length), []
        if found.vocab_size > config.vocab_size:
            sizes = f"CLIP's has {found.vocab_size} tokens, the model has {config.vocab_size}"
            return None, [f"model.preprocess has no tokenizer: {sizes}"]
    return found and replace(found, clean=clean), notes


def tokenizer_keys(text: TextProcessor) -> dict[str, Any]:
    """Keys of `text_cfg`: hf_tokenizer_name makes open_clip read another tokenizer than CLIP's from the folder."""
    own = text.tokenizer == vocabulary_files.open_clip_tokenizer()
    usual = "lower" if own else "whitespace"
    kwargs = {} if text.clean in (None, usual) else {"tokenizer_kwargs": {"clean": text.clean}}
    return ({} if own else {"hf_tokenizer_name": "tokenizer.json"}) | kwargs


def files(model: Model) -> dict[str, Any]:
    """{file name: contents} of the tokenizer. The cleaning of texts stands in `text_cfg`."""
    text = getattr(model.preprocess, "text", None)
    return {} if text is None else replace(text, clean=None).transformers_files()
