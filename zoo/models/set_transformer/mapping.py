"""Mapping of the set transformer to torch_geometric: tensor names, in both directions.

The layers are those of `torch_geometric.nn.aggr.utils`, named as in `SetTransformerAggregation`: encoders, pma and
decoders. The linear layers before and after them, which that class does not have, are `lin_in` and `lin_out`.
"""

from zoo.models.mapping.config_keys import CheckpointMapping


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

# its files have no config
TORCH_GEOMETRIC = CheckpointMapping(name="SetTransformerAggregation", keys="", table=TABLE)
