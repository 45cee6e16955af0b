"""Mapping of PaliGemma 1 and 2 to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.gemma.mapping import GEMMA, GEMMA2
from zoo.models.llava.mapping import IMAGE as LLAVA_IMAGE
from zoo.models.llava.mapping import LANGUAGE as LLAVA_LANGUAGE
from zoo.models.mapping.bridge import BridgeMapping, TowerChoices
from zoo.models.tower_config import Part
from zoo.models.vit.clip_mapping import SIGLIP_VISION
from zoo.utils.errors import LoadError

PROJECTOR = "connector.up.@ = multi_modal_projector.linear.@ | model.multi_modal_projector.linear.@"

IMAGE = TowerChoices(
    key="vision_config",
    bases=LLAVA_IMAGE.bases,
    mappings=(SIGLIP_VISION,),
    families=("vit",),
    fields={"head": None},
    ignored=("vision_use_head",),
    writes={SIGLIP_VISION.name: {"vision_use_head": False}},
    extra="- = ~head.**\n",
)
LANGUAGE = TowerChoices(
    key="text_config",
    bases=LLAVA_LANGUAGE.bases,
    mappings=(GEMMA, GEMMA2),
    families=("gemma", "gemma"),
    fields={"head": "lm"},
    others=LLAVA_LANGUAGE.others,
    ignored=("use_bidirectional_attention",),  # True says that there is a prefix, which token_type_ids mark
)


def read(values: Mapping[str, Any], towers: Mapping[str, Part]) -> dict[str, Any]:
    """Our fields outside the towers. Raises LoadError for what we do not compute."""
    width = getattr(towers["text"].config, "width", None)
    if (dim := values.get("projection_dim", width)) != width:
        raise LoadError(f"projection_dim={dim} is not the width of the text tower, {width}: features would not fit")
    names = ("image_token_index", "image_token_id")
    given = {name: value for name in names if (value := values.get(name)) is not None}
    if len(set(given.values())) > 1:
        raise LoadError(f"{given} differ, and both are names of the same setting: remove one of them")
    return {"image_token_id": next(iter(given.values()), 256000)}


def write(config: Any) -> dict[str, Any]:
    """Their keys outside the towers."""
    width = config.text.config.width
    return {"image_token_index": config.image_token_id, "projection_dim": width, "hidden_size": width}


TRANSFORMERS = BridgeMapping(
    name="paligemma",
    architecture="PaliGemmaForConditionalGeneration",
    parts={"image": IMAGE, "text": LANGUAGE},
    table=PROJECTOR,
    read=read,
    write=write,
    processor="PaliGemmaProcessor",
    processor_values=lambda config: {},
    image_processor_values=lambda config: {"image_seq_length": config.tokens_per_item},
)
