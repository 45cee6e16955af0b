"""Mapping of LLaVA to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.llama.mapping import MAPPINGS as TEXT
from zoo.models.mapping.bridge import BridgeMapping, TowerChoices
from zoo.models.mapping.config_keys import ACTIVATIONS
from zoo.models.tower_config import Part
from zoo.models.vit.clip_mapping import CLIP_VISION, SIGLIP_VISION
from zoo.utils.errors import LoadError

# The file of the published models, of transformers 5, and of transformers 4.52 to 4.57.
VISION_BASES = (
    "vision_tower.vision_model.", "vision_tower.", "model.vision_tower.", "model.vision_tower.vision_model.",
)  # fmt: skip
TEXT_BASES = ("language_model.model.", "model.language_model.", "language_model.", "model.language_model.model.")
TEXT_OTHERS = ("language_model.", "", "model.language_model.")
PROJECTOR = """
    connector.up.@      = multi_modal_projector.linear_1.@ | model.multi_modal_projector.linear_1.@
    connector.down.@    = multi_modal_projector.linear_2.@ | model.multi_modal_projector.linear_2.@
"""
# What transformers takes for a file without vision_config.
VISION: dict[str, Any] = dict(
    intermediate_size=4096,
    hidden_size=1024,
    patch_size=14,
    image_size=336,
    num_hidden_layers=24,
    num_attention_heads=16,
)

IMAGE = TowerChoices(
    key="vision_config",
    bases=VISION_BASES,
    mappings=(CLIP_VISION, SIGLIP_VISION),
    families=("vit", "vit"),
    fields={"head": None},
    absent=VISION,
    ignored=("vision_use_head",),
    writes={SIGLIP_VISION.name: {"vision_use_head": False}},
    extra="- = ~head.**\n",
)
LANGUAGE = TowerChoices(
    key="text_config",
    bases=TEXT_BASES,
    mappings=TEXT,
    families=("llama",) * len(TEXT),
    fields={"head": "lm"},
    others=TEXT_OTHERS,
)


def read_layer(layer: int, depth: int) -> int:
    """Our block for transformers' hidden state: 0 is its embedding, `depth` or -1 the last block's output."""
    block = layer - 1 if layer >= 0 else layer
    if layer == 0 or not -depth <= block < depth:
        raise LoadError(f"vision_feature_layer={layer}: expected the output of a block, 1 to {depth} or -{depth} to -1")
    return depth - 1 if block == -1 else block


def write_layer(layer: int, depth: int) -> int:
    """The inverse of `read_layer`. Raises ValueError for the output after the final norm."""
    if layer == -1:
        raise ValueError("feature_layer=-1 (after the final norm)")
    return -1 if layer == depth - 1 else layer + 1 if layer >= 0 else layer


def read(values: Mapping[str, Any], towers: Mapping[str, Part]) -> dict[str, Any]:
    """Our fields outside the towers. Raises LoadError for what we do not compute."""
    image: Any = towers["image"].config
    names = {"image_token_index": values.get("image_token_index"), "image_token_id": values.get("image_token_id")}
    given = {name: value for name, value in names.items() if value is not None}
    if len(set(given.values())) > 1:
        raise LoadError(f"{given} differ, and both are names of the same setting: remove one of them")
    strategy = values.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise LoadError(f"vision_feature_select_strategy={strategy!r} is not supported, only default or full")
    if strategy == "default" and not image.class_token:
        raise LoadError(
            "vision_feature_select_strategy='default' leaves out the first token, which is a patch, as the image tower "
            "has no class token: 'full' is supported"
        )
    layer = values.get("vision_feature_layer", -2)
    several = isinstance(layer, list | tuple)
    blocks = tuple(read_layer(each, image.depth) for each in (layer if several else (layer,)))
    act = values.get("projector_hidden_act", "gelu")
    return {
        "image_token_id": next(iter(given.values()), 32000),
        "drop_prefix": strategy == "default" or not image.class_token,
        "feature_layer": blocks if several else blocks[0],
        "projector_act": ACTIVATIONS.get(act, act),
        "projector_bias": values.get("multimodal_projector_bias", True),
    }


def write(config: Any) -> dict[str, Any]:
    """Their keys outside the towers. Raises ValueError naming what they cannot express."""
    depth, c = config.image.config.depth, config
    layers = [write_layer(layer, depth) for layer in c.feature_layers]
    default = c.drop_prefix and c.image.config.class_token
    acts = {ours: theirs for theirs, ours in ACTIVATIONS.items() if theirs != "gelu_new"}
    return {
        "image_token_index": c.image_token_id,
        "image_seq_length": c.tokens_per_item or 576,
        "vision_feature_select_strategy": "default" if default else "full",
        "vision_feature_layer": layers if isinstance(c.feature_layer, tuple) else layers[0],
        "projector_hidden_act": acts.get(c.projector_act, c.projector_act),
        "multimodal_projector_bias": c.projector_bias,
    }


def processor_values(config: Any) -> dict[str, Any]:
    """The settings of transformers' LlavaProcessor, from which it computes the number of image tokens."""
    image, own = config.image.config, write(config)
    return {
        "patch_size": image.patch_size,
        "vision_feature_select_strategy": own["vision_feature_select_strategy"],
        "num_additional_image_tokens": int(image.class_token),
    }


TRANSFORMERS = BridgeMapping(
    name="llava",
    architecture="LlavaForConditionalGeneration",
    parts={"image": IMAGE, "text": LANGUAGE},
    table=PROJECTOR,
    read=read,
    write=write,
    processor="LlavaProcessor",
    processor_values=processor_values,
)
