"""Models with several towers in transformers' format."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.checkpoints.formats import tokenizer
from zoo.checkpoints.formats.checkpoint import Checkpoint
from zoo.models.base import Model
from zoo.models.config import Config
from zoo.models.family import Family
from zoo.models.mapping.multi_tower import MultiTowerMapping
from zoo.preprocessing.image import ImageProcessor, pair
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.utils.errors import LoadError
from zoo.utils.files import read_json


def read(folder: Path, values: Mapping[str, Any], own: Family, towers: MultiTowerMapping) -> Checkpoint:
    """Read a folder of transformers with the mapping `towers`."""
    config: Any = towers.config(own, values, folder / "config.json")
    preprocess, notes = read_preprocess(folder, config, towers.name)
    return Checkpoint(folder, "transformers", own, config, preprocess=preprocess, mapping=towers,
                      architecture=towers.architecture, notes=notes)  # fmt: skip


def read_preprocess(folder: Path, config: Config, name: str) -> tuple[MultimodalProcessor | None, list[str]]:
    """(the processor of images and texts, notes on what could not be read)."""
    image, notes = None, []
    tower: Any = config.parts["image"]
    try:
        if (processor := image_processor_config(folder)) is not None:
            image = ImageProcessor.from_transformers(processor, pair(tower.image_size), tower.in_chans)
    except LoadError as error:
        notes.append(f"model.preprocess has no image processor: {error}")
    text, text_notes = tokenizer.read(folder, config.parts["text"], name)
    return multimodal_processor(image, text, config), notes + text_notes


def multimodal_processor(image: Any, text: Any, config: Config) -> MultimodalProcessor | None:
    """Image and text processors in one; a bidirectional text tower gets texts padded to one length, and no mask."""
    tower: Any = config.parts["text"]
    if text is not None and not getattr(tower, "causal", True):
        text = replace(text, mask=False, multiple=text.max_length)
    return MultimodalProcessor(image=image, text=text) if image or text else None


def image_processor_config(folder: Path) -> Mapping[str, Any] | None:
    """The settings of transformers' image processor: a file of its own, or (transformers 5) part of the processor's."""
    if (folder / "preprocessor_config.json").is_file():
        return read_json(folder / "preprocessor_config.json")
    processor = read_json(folder / "processor_config.json") if (folder / "processor_config.json").is_file() else {}
    return processor.get("image_processor")


def describe(model: Model, own: Family, towers: MultiTowerMapping) -> tuple[dict[str, Any], Any, Config]:
    """(config.json, mapping, the config it describes)."""
    values = towers.values(own, model.config)
    for part in towers.parts.values():
        values[part.key] = {"model_type": part.mapping.name} | values[part.key]
    start = {"architectures": [towers.architecture], "model_type": towers.name, "dtype": str(model.dtype)[6:]}
    return start | values, towers, model.config
