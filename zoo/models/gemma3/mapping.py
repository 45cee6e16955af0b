"""Mapping of Gemma 3 with images to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zoo.models.gemma.mapping import GEMMA3
from zoo.models.mapping.bridge import BridgeMapping
from zoo.models.paligemma.mapping import IMAGE
from zoo.models.paligemma.mapping import LANGUAGE as PALIGEMMA_LANGUAGE
from zoo.models.tower_config import Part

NORM, LINEAR = "multi_modal_projector.mm_soft_emb_norm.weight", "multi_modal_projector.mm_input_projection_weight"
PROJECTOR = f"""
    connector.norm.weight = {NORM} | model.{NORM}
    connector.up.weight   = {LINEAR} | model.{LINEAR}  T
"""
LANGUAGE = replace(PALIGEMMA_LANGUAGE, mappings=(GEMMA3,), families=("gemma",), ignored=())

# ours = (theirs, its default)
TOKENS = {
    "mm_tokens_per_image": ("mm_tokens_per_image", 256),
    "image_token_id": ("image_token_index", 262144),
    "boi_token_id": ("boi_token_index", 255999),
    "eoi_token_id": ("eoi_token_index", 256000),
}


def read(values: Mapping[str, Any], towers: Mapping[str, Part]) -> dict[str, Any]:
    """Our fields outside the towers."""
    return {ours: values.get(theirs, default) for ours, (theirs, default) in TOKENS.items()}


def write(config: Any) -> dict[str, Any]:
    """Their keys outside the towers."""
    return {theirs: getattr(config, ours) for ours, (theirs, _) in TOKENS.items()}


TRANSFORMERS = BridgeMapping(
    name="gemma3",
    architecture="Gemma3ForConditionalGeneration",
    parts={"image": IMAGE, "text": LANGUAGE},
    table=PROJECTOR,
    read=read,
    write=write,
    processor="Gemma3Processor",
    processor_values=lambda config: {"image_seq_length": config.mm_tokens_per_image},
)
