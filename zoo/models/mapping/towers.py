"""What the mappings of models of several towers have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from zoo.models.family import Family
from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.models.mapping.tensors import OPS
from zoo.utils.errors import LoadError

# The image processors that we write, and the equivalent classes that CLIP's and SigLIP's processors expect.
IMAGE_PROCESSORS = {"BitImageProcessor": "CLIPImageProcessor", "ViTImageProcessor": "SiglipImageProcessor"}


@dataclass(frozen=True, kw_only=True)
class TowersMapping:
    """Base class of mappings of models with several towers to one kind of checkpoint of another library.

    name: transformers' `model_type`; architecture: its class. parts: the towers by name. table: the tensors outside
    the towers, see `tensors.py`. write: from our config to their keys outside the towers. processor: transformers'
    processor class for images and texts; image_processor_values: settings of its image processor for a model.
    """

    name: str
    architecture: str
    parts: Mapping[str, Any]
    table: str
    write: Callable[[Any], dict[str, Any]]
    processor: str = ""
    image_processor_values: Callable[[Any], dict[str, Any]] = lambda config: {}
    base: str = ""
    embeds: None = None

    @property
    def heads(self) -> dict[str, dict[str, Any]]:
        return {self.architecture: {}}

    @property
    def assumes(self) -> tuple[str, ...]:
        return (self.architecture,)

    def processor_settings(self, config: Any, image: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of their processor; image: those of its image processor."""
        raise NotImplementedError

    def processor_files(self, files: dict[str, Any], config: Any) -> dict[str, Any]:
        """{file name: contents} of the whole model's processor, from those of its towers."""
        named, found = {"processor_class": self.processor}, dict(files)
        if (image := files.get("preprocessor_config.json")) is not None:
            kind = image["image_processor_type"]
            image = image | {"image_processor_type": IMAGE_PROCESSORS.get(kind, kind)}
            found["preprocessor_config.json"] = image | named | self.image_processor_values(config)
            found["processor_config.json"] = named | self.processor_settings(config, image)
        if (tokenizer := files.get("tokenizer_config.json")) is not None:
            found["tokenizer_config.json"] = tokenizer | named
        return found


def tower_fields(own: Family, mapping: CheckpointMapping, theirs: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a tower's config, from its part of their config. Raises LoadError, which begins with `where`."""
    try:
        return mapping.to_ours(own.config().to_dict() | dict(mapping.defaults), theirs)
    except LoadError as error:
        raise LoadError(f"{where}: {error}") from None
    except ValueError as error:
        raise LoadError(f"{where}: {mapping.name}: {error}") from None


def tower_values(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A tower's part of a config; `text_config_dict`, in old files, overrides `text_config`."""
    found = values.get(f"{key}_dict")
    found = values.get(key) if found is None else found
    return found or {}


def prefixed(table: str, ours: str, bases: tuple[str, ...], others: tuple[str, ...] | None = None) -> str:
    """A table of tensors of a tower: `ours` before our names, and each of `bases` before their names, as alternatives.

    others: instead of `bases` before the names without `~`.
    """
    others, lines = bases if others is None else others, []
    for text in table.splitlines():
        if not (text := text.split("#")[0].strip()):
            continue
        left, _, right = (part.strip() for part in text.partition(" = "))
        tokens = right.split()
        end = next((i for i, token in enumerate(tokens) if token in (*OPS, "?", "if")), len(tokens))
        names = [token for token in tokens[:end] if token != "|"]
        full = chain.from_iterable(
            [before + name.removeprefix("~") for before in (bases if name[0] == "~" else others)] for name in names
        )
        rest = [
            f"{ours}{token}" if before == "if" else token for before, token in zip(["", *tokens[end:]], tokens[end:])
        ]
        lines.append(f"{left if left == '-' else ours + left} = {' | '.join(full)} {' '.join(rest)}".strip())
    return "\n".join(lines) + "\n"
