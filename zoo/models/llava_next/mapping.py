"""Mapping of LLaVA-NeXT to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.llava import mapping as llava
from zoo.models.mapping.bridge import BridgeMapping
from zoo.models.tower_config import Part

PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


def read(values: Mapping[str, Any], towers: Mapping[str, Part]) -> dict[str, Any]:
    """Our fields outside the towers."""
    points = values.get("image_grid_pinpoints") or PINPOINTS
    return llava.read(values, towers) | {"image_grid_pinpoints": tuple((int(h), int(w)) for h, w in points)}


def write(config: Any) -> dict[str, Any]:
    """Their keys outside the towers."""
    return llava.write(config) | {"image_grid_pinpoints": [list(point) for point in config.image_grid_pinpoints]}


TRANSFORMERS = BridgeMapping(
    name="llava_next",
    architecture="LlavaNextForConditionalGeneration",
    parts={"image": llava.IMAGE, "text": llava.LANGUAGE},
    table=llava.PROJECTOR + "newline = image_newline | model.image_newline",
    read=read,
    write=write,
    processor="LlavaNextProcessor",
    processor_values=llava.processor_values,
)
