"""CoCa in open_clip's format: a `model_cfg` with `multimodal_cfg`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.models.coca.mapping import OPEN_CLIP, CoCaMapping
from zoo.models.config import Config
from zoo.models.family import Family, config_of
from zoo.models.mapping.config_keys import differences
from zoo.preprocessing.text import TextProcessor
from zoo.utils.errors import LoadError

ENDS = ("bos_token_id", "decoder_start_token_id", "eos_token_id")


def read_config(own: Family, model: Mapping[str, Any], file: Path) -> Config:
    """Our config for a `model_cfg`. Raises LoadError naming the file."""
    start = own.config().to_dict() | dict(OPEN_CLIP.defaults)
    try:
        return config_of(own, OPEN_CLIP.to_ours(start, model), file)
    except (LoadError, ValueError) as error:
        raise LoadError(str(error) if str(file) in str(error) else f"{file}: {error}") from None


def with_ends(config: Any, text: TextProcessor | None) -> Any:
    """The config with the start and the end token of a tokenizer, if it has these."""
    if text is None or text.id("bos") is None or text.id("eos") is None:
        return config
    start, end = text.id("bos"), (text.id("eos"), config.pad_token_id)
    return config.replace(bos_token_id=start, decoder_start_token_id=start, eos_token_id=end)


def describe(own: Family, config: Any) -> tuple[dict[str, Any], CoCaMapping]:
    """(`model_cfg`, the mapping). Raises ValueError naming what open_clip cannot express."""
    values = OPEN_CLIP.to_theirs(config)
    try:
        again: Any = read_config(own, values, Path("open_clip"))
    except LoadError as error:
        raise ValueError(str(error)) from None
    ends = {name: getattr(config, name) for name in ENDS}  # those of the tokenizer, which open_clip does not store
    if lost := differences(config, again.replace(**ends)):
        raise ValueError(f"open_clip's CoCa cannot express {', '.join(lost)}")
    return values, OPEN_CLIP
