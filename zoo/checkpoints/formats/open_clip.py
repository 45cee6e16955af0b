"""open_clip's folders: open_clip_config.json with `model_cfg` and `preprocess_cfg`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.checkpoints.formats import tokenizer
from zoo.checkpoints.formats.checkpoint import Checkpoint
from zoo.checkpoints.formats.transformers_multi_tower import pairing
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
from zoo.preprocessing.text import TextProcessor
from zoo.utils.errors import LoadError
from zoo.utils.files import read_json

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# What an empty preprocess_cfg means.
USUAL: dict[str, Any] = {
    "size": 224,
    "mode": "RGB",
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
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
        raise LoadError(f"{file} has no 'model_cfg'")
    if missing := [name for name in ("embed_dim", "vision_cfg", "text_cfg") if name not in model]:
        raise LoadError(f"{file}: model_cfg lacks {missing[0]!r}: no family of this zoo is described so")
    towers = towers_of(model, file)
    own = family("siglip" if towers.loss == "siglip" else "clip")
    config: Any = towers.config(own, spread(model), file)
    image = read_picture(values.get("preprocess_cfg") or {}, pair(config.parts["image"].image_size), file)
    text, notes = read_tokenizer(folder, model["text_cfg"], config.parts["text"])
    return Checkpoint(
        path=folder,
        format="open_clip",
        family=own,
        config=config,
        preprocess=pairing(image, text, config),
        table=towers.table_for(config),
        mapping=towers,
        architecture="CLIP",
        notes=notes,
    )


# --- Towers -----------------------------------------------------------------------------------------------------------


def towers_of(model: Mapping[str, Any], file: Path) -> MultiTowerMapping:
    """The towers that a `model_cfg` speaks of. What is of another kind is refused by name."""
    if "multimodal_cfg" in model:
        raise LoadError(f"{file}: CoCa (multimodal_cfg) is not in this zoo")
    if unknown := [name for name in model if name not in MODEL_KEYS]:
        raise LoadError(f"{file}: {unknown[0]}={model[unknown[0]]!r} is not supported")
    vision, text = model.get("vision_cfg", {}), model.get("text_cfg", {})
    if name := text.get("hf_model_name"):
        raise LoadError(f"{file}: text towers of transformers (hf_model_name={name!r}) are not supported")
    if isinstance(vision.get("layers"), list):
        raise LoadError(f"{file}: CLIP's ResNets (layers={vision['layers']}) are not in this zoo")
    behind = vision.get("timm_proj", "linear")
    if (named := vision.get("timm_model_name")) and behind not in ("none", ""):
        raise LoadError(f"{file}: timm_proj={behind!r} behind {named!r} is not supported, only 'none'")
    kind = text.get("proj_type", "linear")
    if kind not in ("linear", "none"):
        raise LoadError(f"{file}: proj_type={kind!r} is not supported, only 'linear' or 'none'")
    proj = None if kind == "none" else "affine" if text.get("proj_bias") else "linear"
    return make_towers(
        timm=bool(named),
        custom=bool(model.get("custom_text")),
        proj=proj,
        bias=model.get("init_logit_bias") is not None,
        scalar=not model.get("nonscalar_logit_scale", False),
    )


def make_towers(*, timm: bool, custom: bool, proj: str | None, bias: bool, scalar: bool = True) -> MultiTowerMapping:
    """timm: the image tower is one of timm's; custom: the text tower is a module of its own; proj: of the texts;
    scalar: scale and bias are numbers, not lists of one."""
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
    words = TowerMapping(key="text_cfg", prefix=text, family="clip_text", mapping=OPEN_CLIP_TEXT, proj=proj)
    extra: dict[str, Any] = {"custom_text": True} if custom else {}
    extra |= {"init_logit_bias": -10.0} if bias else {}
    return MultiTowerMapping(
        name="open_clip",
        architecture="open_clip's CLIP",
        parts={"image": image, "text": words},
        table="\n".join(lines) + "\n",
        loss="siglip" if bias else "clip",
        read=lambda values: {"width": values["embed_dim"]},
        write=lambda config: {"embed_dim": config.width} | extra,
    )


def timm_tower() -> CheckpointMapping:
    """An image tower that timm builds by its name."""

    def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
        name, pool = theirs["timm_model_name"], theirs.get("timm_pool", "avg")
        if name not in VARIANTS or VARIANTS[name].get("pool") != "map" or pool != "map":
            known = ", ".join(known_towers())
            raise ValueError(f"timm_model_name={name!r} with timm_pool={pool!r} is not supported; known: {known}")
        size = VARIANTS[name].get("image_size", 224)
        if "image_size" in theirs and sizes(theirs["image_size"]) != sizes(size):
            raise ValueError(f"image_size={theirs['image_size']} of {name}: timm builds it for {size}")
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
        raise ValueError(f"open_clip takes image towers that pool by attention from timm, and {nearest} has not {lost}")

    def known_towers() -> list[str]:
        return [name for name, fields in VARIANTS.items() if fields.get("pool") == "map"]

    return CheckpointMapping(name="open_clip's image tower", keys="", table=TIMM.table, read=read, write=write)


def spread(model: Mapping[str, Any]) -> dict[str, Any]:
    """A `model_cfg` with what it says of both towers (quick_gelu) said of each."""
    both = {"quick_gelu": bool(model.get("quick_gelu"))}
    return {**model, "vision_cfg": both | dict(model["vision_cfg"]), "text_cfg": both | dict(model["text_cfg"])}


def gather(values: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `spread`. Raises ValueError for towers of different activations."""
    parts = {key: dict(values[key]) for key in ("vision_cfg", "text_cfg")}
    quick = [bool(part.pop("quick_gelu", False)) for key, part in parts.items() if "timm_model_name" not in part]
    if len(set(quick)) > 1:
        raise ValueError("open_clip cannot express act='quick_gelu' of one tower alone")
    return {**values, **parts} | ({"quick_gelu": True} if quick[-1] else {})


def describe(model: Model, own: Family) -> tuple[dict[str, Any], Any, Config]:
    """(open_clip_config.json, the dialect, the config written). Raises ValueError for what open_clip cannot express."""
    config: Any = model.config
    text = config.towers.get("text")
    image = config.towers.get("image")
    timm = image is not None and getattr(image.config, "pool", None) == "map"
    proj = None if text is None else text.proj
    towers = make_towers(timm=timm, custom=timm or proj != "linear", proj=proj, bias=config.loss == "siglip")
    values = gather(towers.values(own, config))
    if proj != "linear":
        values["text_cfg"] |= {"proj_bias": True} if proj == "affine" else {"proj_type": "none"}
    if getattr(model.preprocess, "text", None) is not None:
        values["text_cfg"] |= tokenizer_keys(model.preprocess.text)
    picture = getattr(model.preprocess, "image", None)
    return {"model_cfg": values, "preprocess_cfg": {} if picture is None else write_picture(picture)}, towers, config


# --- Preprocessing ----------------------------------------------------------------------------------------------------


def read_picture(said: Mapping[str, Any], size: tuple[int, int], file: Path) -> ImageProcessor:
    """open_clip's transform for evaluation; what the file leaves out has open_clip's defaults, the size the model's."""
    if unknown := [name for name in said if name not in USUAL]:
        raise LoadError(f"{file}: preprocess_cfg has {unknown[0]}={said[unknown[0]]!r}, which is not supported")
    values = USUAL | {"size": list(size)} | {name: value for name, value in said.items() if value is not None}
    if values["mode"] != "RGB" or (values["resize_mode"] == "longest" and values["fill_color"] != 0):
        raise LoadError(f"{file}: preprocess_cfg with mode={values['mode']!r}, fill_color={values['fill_color']}")
    if values["resize_mode"] not in ("shortest", "squash"):
        raise LoadError(f"{file}: resize_mode={values['resize_mode']!r} is not supported, only 'shortest' and 'squash'")
    return ImageProcessor(
        size=pair(values["size"]),
        fit=values["resize_mode"],
        interpolation=values["interpolation"],
        mean=values["mean"],
        std=values["std"],
    )


def write_picture(picture: ImageProcessor) -> dict[str, Any]:
    """`preprocess_cfg`. Raises ValueError where open_clip has no word for it."""
    odd = picture.resize_to not in (None, picture.size) or picture.fit not in ("shortest", "squash")
    if odd or picture.channels != 3 or not math.isclose(picture.rescale, 1 / 255):
        raise ValueError(
            f"open_clip's transforms cannot express fit={picture.fit!r}, resize_to={picture.resize_to} and "
            f"{picture.channels} channels for pictures of {picture.size}"
        )
    square = picture.size[0] == picture.size[1]
    return {
        "size": picture.size[0] if square else list(picture.size),
        "mode": "RGB",
        "mean": list(picture.mean),
        "std": list(picture.std),
        "interpolation": picture.interpolation,
        "resize_mode": picture.fit,
    }


def read_tokenizer(folder: Path, text: Mapping[str, Any], config: Any) -> tuple[TextProcessor | None, list[str]]:
    """The tokenizer of a folder, else CLIP's own from the package open_clip, with what it does to longer texts."""
    found, notes = tokenizer.read(folder, config, "clip")
    if found is None and not text.get("hf_tokenizer_name") and (own := tokenizer.open_clip_tokenizer()):
        special = {"bos": tokenizer.START, "eos": tokenizer.END, "unk": tokenizer.END}
        usual = TextProcessor(tokenizer=own, special=special, max_length=config.max_length)
        if usual.vocab_size > config.vocab_size:
            return None, [f"no tokenizer: CLIP's has {usual.vocab_size} tokens, the model {config.vocab_size}"]
        return usual, []
    return found, notes


def tokenizer_keys(text: TextProcessor) -> dict[str, Any]:
    """CLIP's own tokenizer needs no word; any other is read from the folder, which a name asks open_clip to do."""
    return {} if text.tokenizer == tokenizer.open_clip_tokenizer() else {"hf_tokenizer_name": "tokenizer.json"}


def files(model: Model) -> dict[str, Any]:
    """{name: contents} of the tokenizer's files."""
    text = getattr(model.preprocess, "text", None)
    return {} if text is None else text.transformers_files()
