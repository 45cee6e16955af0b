"""Tensor names of the layers of the point transformer in torch_geometric, in both directions.

The layers are `PointTransformerConv` with the MLPs pos_nn and attn_nn of two linear layers, within the blocks of its
example of point transformer classification: lin_in, the layer, lin_out.
"""


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


# of the layers alone: the blocks of that example have neither our norms nor residuals, so its networks are others
TABLE = block("blocks.*.mixer", "~blocks.*")
