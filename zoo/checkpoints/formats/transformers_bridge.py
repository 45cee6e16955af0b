"""Bridges (an encoder and a text decoder, such as LLaVA) in transformers' format."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.checkpoints.formats import tokenizer
from zoo.checkpoints.formats.checkpoint import Checkpoint
from zoo.checkpoints.formats.transformers_multi_tower import image_processor_config
from zoo.models.base import Model
from zoo.models.config import Config
from zoo.models.family import Family
from zoo.models.mapping.bridge import BridgeMapping
from zoo.models.mapping.tensors import config_as_tied
from zoo.preprocessing.bridge import BridgeProcessor
from zoo.preprocessing.image import ImageProcessor, pair
from zoo.preprocessing.tiled_image import TiledImageProcessor
from zoo.utils.errors import LoadError


def read(folder: Path, values: Mapping[str, Any], own: Family, mapping: BridgeMapping) -> Checkpoint:
    """Read a folder of transformers with a mapping."""
    config: Any = mapping.config(own, values, folder / "config.json")
    preprocess, notes = read_preprocess(folder, config, own.model.processor_class)  # type: ignore[attr-defined]
    if preprocess is not None and mapping.around:
        preprocess = replace(preprocess, around=mapping.around)
    return Checkpoint(folder, "transformers", own, config, preprocess=preprocess, mapping=mapping,
                      architecture=mapping.architecture, notes=notes)  # fmt: skip


def read_preprocess(folder: Path, config: Any, cls: type[BridgeProcessor]) -> tuple[BridgeProcessor | None, list[str]]:
    """(the processor of images and texts, notes on what could not be read). cls: that of the family."""
    image, own, notes = None, {}, []
    try:
        if (processor := image_processor_config(folder)) is not None:
            image, own = read_image_processor(processor, config), cls.read_image_options(processor)
    except LoadError as error:
        notes.append(f"model.preprocess has no image processor: {error}")
    text, text_notes = tokenizer.read(folder, config.parts["text"], "llama")
    notes += text_notes
    if image is None and text is None:
        return None, notes
    marker = config.feature_token_id
    if text is not None and (marker is None or text.backend.id_to_token(marker) is None):
        notes.append(f"model.preprocess has no tokenizer: it has no token {marker}, which marks the images")
        text = None
    return cls.of_model(config, image=image, text=text, **own), notes


def read_image_processor(values: Mapping[str, Any], config: Any) -> ImageProcessor | TiledImageProcessor:
    """The image processor of a folder; of models that read tiles, that of these."""
    tower, points = config.parts["image"], values.get("image_grid_pinpoints")
    if not hasattr(config, "image_grid_pinpoints"):
        return ImageProcessor.from_transformers(values, pair(tower.image_size), tower.in_chans)
    size = pair(tower.image_size)
    edges = {"height": size[0], "width": size[1]}
    plain = {"image_processor_type": "CLIPImageProcessor", "size": edges, "do_center_crop": False}
    tile = ImageProcessor.from_transformers(dict(values) | plain, size, tower.in_chans)
    resolutions = tuple((int(h), int(w)) for h, w in points) if points else config.image_grid_pinpoints
    return TiledImageProcessor(tile=tile, resolutions=resolutions, grid=size).fitted_to(tower)


def describe(model: Model, own: Family, mapping: BridgeMapping) -> tuple[dict[str, Any], Any, Config]:
    """(config.json, mapping, the config it describes)."""
    tied = config_as_tied(model.text).tie_word_embeddings
    config: Any = model.config.replace(**{"text.tie_word_embeddings": tied})
    start = {"architectures": [mapping.architecture], "model_type": mapping.name, "dtype": str(model.dtype)[6:]}
    return start | mapping.values(own, config), mapping, config
