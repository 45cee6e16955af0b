"""Mapping of the Evoformer to the tensors of OpenFold (Ahdritz et al. 2022), in both directions.

OpenFold's files are those of a whole AlphaFold 2, of which the blocks and the head for masked residues are read. The
first names are those of its present version, `core` those of the first one, which published files have; the third ones,
of single parts, are those of OpenFold 3.
"""

from collections.abc import Sequence

from zoo.models.mapping.config_keys import CheckpointMapping

ATTENTION = """
    attention.q.weight      = mha.linear_q.weight
    attention.k.weight      = mha.linear_k.weight
    attention.v.weight      = mha.linear_v.weight
    attention.output_gate.@ = mha.linear_g.@
    attention.out.@         = mha.linear_o.@
"""
MSA_ATTENTION = "norm.@ = layer_norm_m.@" + ATTENTION
ROW_ATTENTION = MSA_ATTENTION + "pair_norm.@ = layer_norm_z.@ \n pair_bias.weight = linear_z.weight"
TRANSITION = """
    norm.@     = layer_norm.@
    mlp.up.@   = linear_1.@ | transition_mlp.layers.0.0.@
    mlp.down.@ = linear_2.@ | transition_mlp.linear_out.@
"""
OUTER_PRODUCT_MEAN = """
    norm.@  = layer_norm.@
    left.@  = linear_1.@
    right.@ = linear_2.@
    out.@   = linear_out.@
"""
TRIANGLE_MULTIPLICATION = """
    norm.@     = layer_norm_in.@
    a.@        = linear_a_p.@
    a_gate.@   = linear_a_g.@
    b.@        = linear_b_p.@
    b_gate.@   = linear_b_g.@
    out_norm.@ = layer_norm_out.@
    out.@      = linear_z.@
    gate.@     = linear_g.@
"""
TRIANGLE_ATTENTION = "norm.@ = layer_norm.@ \n pair_bias.weight = linear.weight | linear_z.weight" + ATTENTION


def part(ours: str, theirs: Sequence[str], table: str) -> str:
    """The lines of a part of all blocks. theirs: the names that the part has in the files."""
    lines = []
    for line in filter(str.strip, table.splitlines()):
        left, right = line.split(" = ")
        names = [f"~blocks.*.{name}.{end.strip()}" for end in right.split("|") for name in theirs]
        lines.append(f"blocks.*.{ours}.{left.strip()} = {' | '.join(names)}")
    return "\n".join(lines) + "\n"


TABLE = (
    part("row_attention", ("msa_att_row",), ROW_ATTENTION)
    + part("column_attention", ("msa_att_col._msa_att",), MSA_ATTENTION)
    + part("msa_transition", ("msa_transition", "core.msa_transition"), TRANSITION)
    + part("outer_product_mean", ("outer_product_mean", "core.outer_product_mean"), OUTER_PRODUCT_MEAN)
    + part("triangle_outgoing", ("pair_stack.tri_mul_out", "core.tri_mul_out"), TRIANGLE_MULTIPLICATION)
    + part("triangle_incoming", ("pair_stack.tri_mul_in", "core.tri_mul_in"), TRIANGLE_MULTIPLICATION)
    + part("triangle_starting", ("pair_stack.tri_att_start", "core.tri_att_start"), TRIANGLE_ATTENTION)
    + part("triangle_ending", ("pair_stack.tri_att_end", "core.tri_att_end"), TRIANGLE_ATTENTION)
    + part("pair_transition", ("pair_stack.pair_transition", "core.pair_transition"), TRANSITION)
    + """
    masked_msa.@              = aux_heads.masked_msa.linear.@
    residues.residue.weight   = residues.residue.weight          ?  # no file has these: theirs embeds other features
    residues.query.weight     = residues.query.weight            ?
    residues.left.weight      = residues.left.weight             ?
    residues.right.weight     = residues.right.weight            ?
    residues.distance.weight  = residues.distance.weight         ?
    -                         = ~linear.*
    -                         = input_embedder.**
    -                         = recycling_embedder.**
    -                         = template_embedder.**
    -                         = template_angle_embedder.**
    -                         = template_pair_embedder.**
    -                         = template_pair_stack.**
    -                         = template_pointwise_att.**
    -                         = extra_msa_embedder.**
    -                         = extra_msa_stack.**
    -                         = structure_module.**
    -                         = aux_heads.**
"""
)

OPENFOLD = CheckpointMapping(name="openfold", base="evoformer.", keys="", table=TABLE)
