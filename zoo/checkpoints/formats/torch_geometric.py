"""torch_geometric's format: the arguments of a network in config.json, and its state dict in model.pth, as
`PyGModelHubMixin` writes them, or `torch.save` beside a config.json.

That class leaves arguments out that are neither numbers nor texts, such as v2=True, and neither says of which class the
network is: the tensors show both.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.checkpoints.formats.checkpoint import Checkpoint
from zoo.models.base import Model
from zoo.models.config import Config
from zoo.models.family import Family, config_of
from zoo.models.mapping.config_keys import differences, mappings, trainable_instead
from zoo.models.mapping.torch_geometric import NetworkMapping
from zoo.models.registry import build, families
from zoo.utils.errors import LoadError
from zoo.utils.escape import say
from zoo.utils.files import open_tensors, read_json

WEIGHTS = "model.pth"
# Arguments by which a config.json is known: all of a network of layers, or one of a set transformer beside "channels".
LAYERS = {"in_channels", "hidden_channels", "num_layers"}
SETS = {"num_seed_points", "num_encoder_blocks", "num_decoder_blocks"}


def is_config(config: Mapping[str, Any]) -> bool:
    """Whether a config.json has the arguments of a network of torch_geometric."""
    return config.keys() >= LAYERS or ("channels" in config and not SETS.isdisjoint(config))


def read(folder: Path, weights: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """weights: instead of those in the folder."""
    file = folder / "config.json"
    raw = dict(open_tensors(folder, names=(WEIGHTS,)) if weights is None else weights)
    own, mapping, found = network_of(raw, file)
    # an argument of -1 is one that their network finds when it is first called
    theirs = found | {name: value for name, value in read_json(file).items() if value != -1}
    try:
        fields = fields_of(own, mapping, theirs)
    except LoadError as error:
        raise LoadError(f"{file}: {error}") from None
    config = config_of(own, fields, file)
    return Checkpoint(
        path=folder,
        format="torch_geometric",
        family=own,
        config=config,
        preprocess=build(own, config).default_preprocess(),
        mapping=mapping,
        architecture=found.get("conv"),
        tensors=None if weights is None else mapping.read_tensors(raw),
    )


def network_of(tensors: dict[str, Tensor], file: Path) -> tuple[Family, NetworkMapping, dict[str, Any]]:
    """(family, its mapping, what the tensors show of the arguments). Raises LoadError for an unknown network."""
    for own, mapping in mappings(families(), "torch_geometric"):
        assert isinstance(mapping, NetworkMapping)
        if (found := mapping.arguments(mapping.read_tensors(tensors))) is not None:
            return own, mapping, found
    raise LoadError(f"{file} has arguments of a network of torch_geometric, and its weights are of none that is known "
                    "here: GAT, a BasicGNN of TransformerConv (convs.N), or a set transformer (pma)")  # fmt: skip


def tensors_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of the folder, as the table of the checkpoint names them."""
    found: dict[str, Tensor] = checkpoint.mapping.read_tensors(dict(open_tensors(checkpoint.path, names=(WEIGHTS,))))
    return found


def fields_of(own: Family, mapping: NetworkMapping, theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Our config fields for their config.json, in which defaults of their classes may be absent."""
    return mapping.to_ours(own.config().to_dict() | dict(mapping.defaults), theirs)


def describe(model: Model, own: Family) -> tuple[dict[str, Any], NetworkMapping, Config]:
    """(config.json, mapping, the config it describes). Raises ValueError naming what torch_geometric cannot express."""
    mapping: NetworkMapping = own.mappings["torch_geometric"]
    config = mapping.rewrite(model.config)
    theirs = mapping.to_theirs(config)
    lost = differences(config, own.config(**fields_of(own, mapping, theirs)))
    if lost:
        raise ValueError(f"torch_geometric cannot express {', '.join(lost)}{trainable_instead(config, lost)}")
    written = {name: x for name, x in theirs.items() if name not in mapping.inferred and x is not None}
    return written, mapping, config


def say_what_is_not_written(model: Model, folder: str | Path) -> None:
    """Say which settings of the input and names of classes have no place in the folder."""
    lost = [f"{name}=True" for name in ("normalize_features", "undirected") if getattr(model.preprocess, name, False)]
    lost += ["the names of the classes"] if model.labels else []
    if lost:
        say(f"{folder}: torch_geometric has no place for {' and '.join(lost)}", file=sys.stderr)
