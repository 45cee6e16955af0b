"""Files of the package dalle-pytorch: one `dalle.pt` with the arguments of its classes, "hparams" and "vae_params", and
the "weights"."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.checkpoints.formats.checkpoint import Checkpoint
from zoo.models.base import Model
from zoo.models.config import Config
from zoo.models.family import Family, config_of
from zoo.models.mapping.config_keys import CheckpointMapping, differences, mappings, trainable_instead
from zoo.models.registry import families
from zoo.utils.errors import LoadError
from zoo.utils.files import only_tensors

FILE = "dalle.pt"
NOT_IN_FILE = ("image_tokenizer.",)
KEYS = ("hparams", "vae_params", "weights")
SIZES = ("num_text_tokens", "text_seq_len", "dim", "depth", "num_tokens", "image_size", "num_layers")
VAE = ("image_size", "num_layers", "num_tokens")  # of `vae_params`; the others are of the image tokenizer alone


def read(stored: Mapping[str, Any], path: Path, given: str = "") -> Checkpoint | None:
    """The checkpoint of the contents of a `.pt` file; None for other contents.

    given: arguments of the caller that describe a file of weights, which these files do themselves. Raises LoadError
    for them, for sizes that are missing or invalid, and for what our models do not compute.
    """
    if not all(isinstance(stored.get(name), Mapping) for name in KEYS):
        return None
    if given:
        raise LoadError(f"{path} is a file of dalle-pytorch, which describes itself: omit {given}")
    found, mapping = next(mappings(families(), "dalle_pytorch"))
    theirs = {**stored["vae_params"], **stored["hparams"]}
    if odd := next((name for name in SIZES if type(theirs.get(name)) is not int or theirs[name] < 1), None):
        raise LoadError(f"{path}: {odd}={theirs.get(odd)!r:.200}, expected a whole number of at least 1")
    config = config_of(found, fields_of(found, mapping, theirs), path)
    return Checkpoint(
        path=path,
        format="dalle_pytorch",
        family=found,
        config=config,
        mapping=mapping,
        tensors=only_tensors(stored["weights"], f"{path}: 'weights'"),
        notes=["the image tokenizer (vae) of the file is not read: model.set_image_tokenizer takes one of the zoo"],
    )


def fields_of(family: Family, mapping: CheckpointMapping, theirs: Mapping[str, Any]) -> dict[str, Any]:
    return mapping.to_ours(family.config().to_dict() | dict(mapping.defaults), theirs)


def describe(model: Model, family: Family) -> tuple[dict[str, Any], CheckpointMapping, Config]:
    """(the file without its weights, mapping, the config it describes). Raises ValueError naming what dalle-pytorch
    cannot express. The image tokenizer of the model is not a part of the file."""
    mapping: CheckpointMapping = family.mappings["dalle_pytorch"]
    config: Any = model.config
    theirs = mapping.to_theirs(config)
    again = family.config(**fields_of(family, mapping, theirs))
    unused = ("image_tokenizer", "text_dropout", "layer_scale", "pad_token_id")
    same = config.replace(**{name: getattr(again, name) for name in unused if getattr(config, name) is not None})
    lost = differences(same.replace(image_tokenizer=None), again.replace(attention=config.attention))
    if lost:
        raise ValueError(f"dalle-pytorch cannot express {', '.join(lost)}{trainable_instead(config, lost)}")
    hparams = {name: value for name, value in theirs.items() if name not in VAE}
    return {"hparams": hparams, "vae_params": {name: theirs[name] for name in VAE}}, mapping, config
