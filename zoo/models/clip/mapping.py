"""Mapping of CLIP to transformers: config keys and tensor names, in both directions."""

from zoo.models.clip_text.mapping import CLIP_TEXT
from zoo.models.mapping.multi_tower import MultiTowerMapping, TowerMapping
from zoo.models.vit.clip_mapping import CLIP_VISION

TRANSFORMERS = MultiTowerMapping(
    name="clip",
    architecture="CLIPModel",
    parts={
        "image": TowerMapping(
            key="vision_config", prefix="vision_model.", family="vit", mapping=CLIP_VISION, proj="linear"
        ),
        "text": TowerMapping(
            key="text_config", prefix="text_model.", family="clip_text", mapping=CLIP_TEXT, proj="linear"
        ),
    },
    table="""
        logit_scale         = logit_scale
        image_proj.weight   = visual_projection.weight
        text_proj.weight    = text_projection.weight
    """,
    loss="clip",
    processor="CLIPProcessor",
    read=lambda values: {"width": values.get("projection_dim", 512)},
    write=lambda config: {"projection_dim": config.width},
)
