"""Mapping of the point transformer to torch_geometric: tensor names, in both directions.

The layers are `PointTransformerConv` with the MLPs pos_nn and attn_nn of two linear layers, within the blocks of its
example of point transformer classification: lin_in, the layer, lin_out.
"""

from zoo.models.mapping.config_keys import CheckpointMapping


def block(ours: str, theirs: str) -> str:
    """The lines of one mixer."""
    return f"""
    {ours}.dense.@                 = {theirs}.lin_in.@
    {ours}.q.weight                = {theirs}.transformer.lin_dst.weight
    {ours}.k.weight                = {theirs}.transformer.lin_src.weight
    {ours}.v.weight                = {theirs}.transformer.lin.weight
    {ours}.core.position.up.@      = {theirs}.transformer.pos_nn.0.@
    {ours}.core.position.down.@    = {theirs}.transformer.pos_nn.2.@
    {ours}.core.weighting.up.@     = {theirs}.transformer.attn_nn.0.@
    {ours}.core.weighting.down.@   = {theirs}.transformer.attn_nn.2.@
    {ours}.out.@                   = {theirs}.lin_out.@
"""


TABLE = block("blocks.*.mixer", "~blocks.*")
# its files have no config
TORCH_GEOMETRIC = CheckpointMapping(name="PointTransformerConv", keys="", table=TABLE)
