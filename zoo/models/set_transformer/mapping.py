"""Mapping of the set transformer to torch_geometric: arguments and tensor names, in both directions.

The layers are those of `torch_geometric.nn.aggr.utils`, named as in `SetTransformerAggregation`: encoders, pma and
decoders. The linear layers before and after them, which that class does not have, are `lin_in` and `lin_out`; its own
files have neither, and are read as a model whose first layer is the identity. The arguments are those of that class,
with in_channels, out_channels and num_induced_points.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.models.mapping.torch_geometric import NetworkMapping


def mab(ours: str, theirs: str, needs: str = "") -> str:
    """The lines of one MAB: ours is a block; needs: a tensor that the model must have."""
    end = f" if {needs}" if needs else ""
    return f"""
    {ours}.mixer.{{q,k,v}}.weight  = {theirs}.attn.in_proj_weight{end}
    {ours}.mixer.{{q,k,v}}.bias    = {theirs}.attn.in_proj_bias{end}
    {ours}.mixer.out.@             = {theirs}.attn.out_proj.@{end}
    {ours}.norm1.@                 = {theirs}.layer_norm1.@{end}
    {ours}.mlp.up.@                = {theirs}.lin.@{end}
    {ours}.norm2.@                 = {theirs}.layer_norm2.@{end}
"""


TABLE = f"""
    points.proj.@            = ~lin_in.@
    blocks.*.mixer.points    = ~encoders.*.ind          row0
    {mab("blocks.*.mixer.induced", "~encoders.*.mab1")}
    {mab("blocks.*", "~encoders.*.mab2", "blocks.*.mixer.points")}
    {mab("blocks.*", "~encoders.*.mab")}
    head.seeds               = ~pma.seed                row0
    head.dense.up.@          = ~pma.lin.@
    {mab("head.pooling", "~pma.mab")}
    {mab("head.blocks.*", "~decoders.*.mab")}
    head.proj.@              = ~lin_out.@
"""


def arguments(tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The arguments that the tensors show: all but heads and dropout, and concat without `lin_out`."""
    if "pma.seed" not in tensors:
        return None
    seed, out = tensors["pma.seed"], tensors.get("lin_out.weight")
    parts = [name.split(".") for name in tensors]
    blocks = {key: len({part[1] for part in parts if part[0] == key}) for key in ("encoders", "decoders")}
    first = tensors.get("encoders.0.ind")
    found = {
        "in_channels": tensors["lin_in.weight"].shape[1], "channels": seed.shape[-1],
        "num_seed_points": seed.shape[-2], "num_encoder_blocks": blocks["encoders"],
        "num_decoder_blocks": blocks["decoders"], "num_induced_points": None if first is None else first.shape[-2],
        "layer_norm": "pma.mab.layer_norm1.weight" in tensors,
    }  # fmt: skip
    if out is not None:
        found |= {"out_channels": len(out), "concat": out.shape[1] != seed.shape[-1] or seed.shape[-2] == 1}
    return found


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Our fields that `keys` does not have."""
    classes = theirs.get("out_channels")
    head = {"head": "pool"} if classes is None else {"head": "classify", "num_classes": classes}
    return head | {
        "width": theirs["channels"], "depth": theirs["num_encoder_blocks"], "seeds": theirs["num_seed_points"],
        "decoder_depth": theirs["num_decoder_blocks"], "induced_points": theirs["num_induced_points"],
        "pool": "concat" if theirs.get("concat", True) else "mean", "attention_dropout": theirs.get("dropout", 0.0),
    }  # fmt: skip


def write(config: Any) -> dict[str, Any]:
    """Their arguments that `keys` does not have. Raises ValueError for other heads."""
    c = config
    if c.head not in ("classify", "pool"):
        raise ValueError(f"torch_geometric cannot express head={c.head!r}, only 'classify' and 'pool'")
    return {
        "channels": c.width, "num_encoder_blocks": c.depth, "num_seed_points": c.seeds,
        "num_decoder_blocks": c.decoder_depth, "num_induced_points": c.induced_points, "concat": c.pool == "concat",
        "dropout": c.attention_dropout, "out_channels": c.num_classes if c.head == "classify" else None,
    }  # fmt: skip


def with_first_layer(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `SetTransformerAggregation` with the identity as a layer before it."""
    if "pma.seed" not in tensors or "lin_in.weight" in tensors:
        return tensors
    seed = tensors["pma.seed"]
    width = seed.shape[-1]
    return tensors | {"lin_in.weight": torch.eye(width, dtype=seed.dtype), "lin_in.bias": seed.new_zeros(width)}


TORCH_GEOMETRIC = NetworkMapping(
    name="torch_geometric",
    keys="""
        in_features = in_channels
        heads = heads
        layer_norm = layer_norm
    """,
    table=TABLE,
    defaults={"heads": 1},
    others=(
        "channels", "num_seed_points", "num_encoder_blocks", "num_decoder_blocks", "num_induced_points", "concat",
        "dropout", "out_channels",
    ),
    read=read,
    write=write,
    arguments=arguments,
    read_tensors=with_first_layer,
)  # fmt: skip
