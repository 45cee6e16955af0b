"""Mappings for configs of transformers that have the settings of each part in an object of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.models.config import Config
from zoo.models.mapping.config_keys import CheckpointMapping


@dataclass(frozen=True, kw_only=True)
class NestedMapping(CheckpointMapping):
    """A mapping whose keys may name a part of their config: `width = vision_config.hidden_size`.

    processor, image_processor: transformers' classes that prepare images with texts, and images. tokenizer: the model
    type whose tokenizer theirs is.
    """

    processor: str = ""
    image_processor: str = ""
    tokenizer: str = ""

    def to_ours(self, fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
        return super().to_ours(fields, flattened(theirs))

    def to_theirs(self, config: Config) -> dict[str, Any]:
        nested: dict[str, Any] = {}
        for key, value in super().to_theirs(config).items():
            part, dot, name = key.rpartition(".")
            (nested.setdefault(part, {}) if dot else nested)[name] = value
        return nested

    def processor_files(self, files: dict[str, Any]) -> dict[str, Any]:
        """{file name: contents} of the processor of images and texts, from the files of its parts."""
        named = {"processor_class": self.processor}
        if (image := files.get("preprocessor_config.json")) is not None:
            image = image | {"image_processor_type": self.image_processor}
            files = files | {
                "preprocessor_config.json": image | named,
                "processor_config.json": named | {"image_processor": image},
            }
        if (tokenizer := files.get("tokenizer_config.json")) is not None:
            files = files | {"tokenizer_config.json": tokenizer | named}
        return files


def flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a config, those of its parts as `part.key`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat
