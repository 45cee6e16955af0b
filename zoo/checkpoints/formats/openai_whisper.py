"""OpenAI's files of Whisper: one `.pt` file with the sizes of the model ("dims") and its "model_state_dict"."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.checkpoints.formats.checkpoint import Checkpoint
from zoo.models.family import Family, config_of
from zoo.models.mapping.config_keys import CheckpointMapping, key_lines, mappings
from zoo.models.registry import families
from zoo.preprocessing.whisper import WhisperProcessor
from zoo.utils.errors import LoadError
from zoo.utils.files import only_tensors

KEYS = ("dims", "model_state_dict")


def read(stored: Mapping[str, Any], path: Path, given: str = "") -> Checkpoint | None:
    """The checkpoint of the contents of a `.pt` file; None for other contents.

    given: arguments of the caller that describe a file of weights, which these files do themselves. Raises LoadError
    for them, and for sizes that are missing or invalid.
    """
    if not all(isinstance(stored.get(name), Mapping) for name in KEYS):
        return None
    if given:
        raise LoadError(f"{path} is a file of OpenAI's Whisper, which describes itself: omit {given}")
    found, mapping = _mapping()
    dims = stored["dims"]
    needed = [name for _, name, _ in key_lines(mapping.keys)] + list(mapping.others or ())
    if odd := next((name for name in needed if type(dims.get(name)) is not int or dims[name] < 1), None):
        raise LoadError(f"{path}: dims has {odd}={dims.get(odd)!r:.200}, expected a whole number of at least 1")
    config: Any = config_of(found, mapping.to_ours(found.config().to_dict(), dims), path)
    return Checkpoint(
        path=path,
        format="openai",
        family=found,
        config=config,
        preprocess=WhisperProcessor(num_mel_bins=config.mel_bins, frames=config.frames),
        mapping=mapping,
        tensors=only_tensors(stored["model_state_dict"], f"{path}: 'model_state_dict'"),
        notes=[
            "model.preprocess has no tokenizer: OpenAI's file holds none; take the one of the same model in "
            "transformers' format, zoo.load('openai/whisper-tiny').preprocess.tokenizer"
        ],
    )


def _mapping() -> tuple[Family, CheckpointMapping]:
    return next(mappings(families(), "openai"))
