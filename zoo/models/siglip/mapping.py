"""Mapping of SigLIP to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.clip_text.mapping import SIGLIP_TEXT
from zoo.models.mapping.multi_tower import MultiTowerMapping, TowerMapping
from zoo.models.vit.clip_mapping import SIGLIP_VISION


def width_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Width of the shared space: `projection_size` of the text tower, by default its hidden size."""
    text = values.get("text_config") or {}
    return {"width": text.get("projection_size") or text.get("hidden_size", 768)}


TRANSFORMERS = MultiTowerMapping(
    name="siglip",
    architecture="SiglipModel",
    parts={
        "image": TowerMapping(key="vision_config", prefix="vision_model.", family="vit", mapping=SIGLIP_VISION),
        "text": TowerMapping(
            key="text_config", prefix="text_model.", family="clip_text", mapping=SIGLIP_TEXT, proj="affine"
        ),
    },
    table="""
        logit_scale     = logit_scale           row0
        logit_bias      = logit_bias            row0
        text_proj.@     = text_model.head.@
    """,
    loss="siglip",
    processor="SiglipProcessor",
    read=width_of,
    write=lambda config: {"text_config": {"projection_size": config.width}},
)
