"""Files of OpenFold: the tensors of an AlphaFold 2, of which the blocks of the Evoformer are read."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.checkpoints.formats.checkpoint import Checkpoint
from zoo.models.base import Model
from zoo.models.config import Config
from zoo.models.family import Family, config_of
from zoo.models.mapping.config_keys import CheckpointMapping, differences, mappings
from zoo.models.mapping.tensors import theirs_of
from zoo.models.registry import families
from zoo.preprocessing.alignment import MASK
from zoo.preprocessing.alignment_processor import AlignmentProcessor
from zoo.utils.errors import LoadError
from zoo.utils.files import only_tensors

FILE = "openfold.pt"
NOT_IN_FILE = ("residues.", "head.")  # the embeddings, of other inputs there, and the contact head
BLOCK = re.compile(r"(?:evoformer\.)?blocks\.(\d+)\.msa_att_row\.layer_norm_m\.weight")


def read(stored: Mapping[str, Any], path: Path, given: str = "") -> Checkpoint | None:
    """The checkpoint of the contents of a `.pt` file; None for other contents.

    given: arguments of the caller that describe a file of weights, which these files do themselves. Raises LoadError
    for them, and for tensors that are missing or of a shape that no Evoformer has.
    """
    blocks = [match for name in stored if isinstance(name, str) and (match := BLOCK.fullmatch(name))]
    if not blocks:
        return None
    if given:
        raise LoadError(f"{path} is a file of OpenFold, which describes itself: omit {given}")
    found, mapping = next(mappings(families(), "openfold"))
    tensors = only_tensors(stored, path)
    fields = found.config().to_dict() | sizes(tensors, mapping, len(blocks), path)
    config = config_of(found, fields, path)
    return Checkpoint(
        path=path,
        format="openfold",
        family=found,
        config=config,
        preprocess=AlignmentProcessor(),
        base=mapping.base,
        mapping=mapping,
        tensors=tensors,
        notes=["the embeddings of residues are new: those of AlphaFold 2 take other features, and its templates, extra "
               "sequences and structure module are not a part of this family"],
    )  # fmt: skip


def sizes(tensors: Mapping[str, Tensor], mapping: CheckpointMapping, depth: int, path: Path) -> dict[str, Any]:
    """The fields of the config that the shapes of the tensors say."""

    def rows(name: str) -> int:
        """The size of the first axis of a tensor of the first block, by our name."""
        table = mapping.table.replace("*", "0")
        theirs = theirs_of(table, f"blocks.0.{name}", tensors, mapping.base)
        if theirs is None or tensors[theirs].ndim == 0 or not tensors[theirs].shape[0]:
            raise LoadError(f"{path} is a file of OpenFold without a usable {name} (as we call it) in its first block")
        return tensors[theirs].shape[0]

    heads, pair_heads = rows("row_attention.pair_bias.weight"), rows("triangle_starting.pair_bias.weight")
    masked = "aux_heads.masked_msa.linear.weight" in tensors
    return {
        "head": None,
        "vocab_size": MASK + 1 if masked else MASK,
        "masked_msa": masked,
        "width": rows("row_attention.norm.weight"),
        "depth": depth,
        "heads": heads,
        "head_dim": rows("row_attention.attention.q.weight") // heads,
        "mlp_dim": rows("msa_transition.mlp.up.bias"),
        "pair_width": rows("row_attention.pair_norm.weight"),
        "pair_heads": pair_heads,
        "pair_head_dim": rows("triangle_starting.attention.q.weight") // pair_heads,
        "pair_mlp_dim": rows("pair_transition.mlp.up.bias"),
        "outer_width": rows("outer_product_mean.left.bias"),
        "triangle_width": rows("triangle_outgoing.a.bias"),
    }


def describe(model: Model, family: Family) -> tuple[dict[str, Any], CheckpointMapping, Config]:
    """(nothing beside the tensors, mapping, config). Raises ValueError naming what OpenFold cannot express."""
    mapping: CheckpointMapping = family.mappings["openfold"]
    config: Any = model.config
    plain = config.replace(attention="softmax", column_attention=None, norm_eps=1e-5)
    lost = [name for name in differences(config, plain) if name != "column_attention='softmax'"]
    if lost:
        raise ValueError(f"OpenFold cannot express {', '.join(lost)}")
    return {}, mapping, config
