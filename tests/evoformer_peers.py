"""The parts of an Evoformer block in ESMFold and openfold3, and as formulas: algorithms 7 to 10 of the supplement of
Jumper et al. 2021 in einsums, and how their weights are named."""

import copy
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from peers import randomize
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from zoo.models.evoformer.model import EvoformerConfig

# All sizes that can be swapped are equal, so that swapped lines of a table load.
HEAD_DIM = HEADS = 4
SIZES = dict(
    width=16, heads=HEADS, head_dim=HEAD_DIM, pair_width=16, pair_heads=HEADS, pair_head_dim=HEAD_DIM, mlp_dim=32,
    pair_mlp_dim=32, outer_width=4, triangle_width=16, depth=2, dropout=0.0, pair_dropout=0.0,
)  # fmt: skip
CONFIG = EvoformerConfig(**SIZES)

GATED = """
    attention.q.weight      = mha.linear_q.weight
    attention.k.weight      = mha.linear_k.weight
    attention.v.weight      = mha.linear_v.weight
    attention.output_gate.@ = mha.linear_g.@
    attention.out.@         = mha.linear_o.@
"""
TRIANGLE_ATTENTION = "norm.@ = layer_norm.@\n pair_bias.weight = linear.weight\n" + GATED
TRIANGLE_MULTIPLICATION = """
    norm.@     = layer_norm_in.@
    out_norm.@ = layer_norm_out.@
    a.@        = linear_a_p.@
    a_gate.@   = linear_a_g.@
    b.@        = linear_b_p.@
    b_gate.@   = linear_b_g.@
    gate.@     = linear_g.@
    out.@      = linear_z.@
"""


def esmfold_part(name: str) -> nn.Module:
    """A part of ESMFold with random parameters."""
    from transformers.models.esm import modeling_esmfold as esmfold

    if name.startswith("attention"):
        made = esmfold.EsmFoldTriangleAttention(16, HEAD_DIM, HEADS, starting=name.endswith("starting"))
    else:
        config = SimpleNamespace(pairwise_state_dim=16)
        made = esmfold.EsmFoldTriangleMultiplicativeUpdate(config, _outgoing=name.endswith("outgoing"))
    return randomize(made)


def openfold3_blocks(count: int) -> nn.ModuleList:
    """Evoformer blocks of openfold3 as those of AlphaFold 2: with its biases, and with the bias of algorithm 14, which
    openfold3 transposes as AlphaFold 3 does."""
    from openfold3.core.config.default_linear_init_config import evo_block_init
    from openfold3.core.model.latent.evoformer import EvoformerBlock

    init = copy.deepcopy(evo_block_init)
    for attention in (init.msa_row_att, init.msa_col_att, init.pair_block.tri_att):
        attention.mha.linear_g.bias = attention.mha.linear_o.bias = True
    for layer in (*init.pair_block.tri_mul.values(), *init.opm.values()):
        layer.bias = True
    blocks = [
        EvoformerBlock(
            c_m=16, c_z=16, c_hidden_msa_att=HEAD_DIM, c_hidden_opm=4, c_hidden_mul=16, c_hidden_pair_att=HEAD_DIM,
            no_heads_msa=HEADS, no_heads_pair=HEADS, transition_type="relu", transition_n=2, msa_dropout=0.0,
            pair_dropout=0.0, no_column_attention=False, opm_first=False, fuse_projection_weights=False, inf=1e9,
            eps=1e-5, linear_init_params=init,
        )
        for _ in range(count)
    ]  # fmt: skip
    for seed, block in enumerate(blocks):
        randomize(block, seed)
        ending = block.pair_stack.tri_att_end
        ending.forward = partial(untransposed, ending.forward)
    return nn.ModuleList(blocks)


def untransposed(forward: Callable[..., Tensor], x: Tensor, *, transpose_bias: bool, **options: Any) -> Tensor:
    assert transpose_bias
    return forward(x, **options)


# -- formulas: w has the parameters of one of our parts by their names, m is [S, N, D], z is [N, N, C] -----------------

Weights = dict[str, Tensor]


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def dense(w: Weights, name: str, x: Tensor) -> Tensor:
    return linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def heads(w: Weights, name: str, x: Tensor) -> Tensor:
    """[S, N, D] -> [S, N, H, P]."""
    return dense(w, f"attention.{name}", x).unflatten(-1, (HEADS, HEAD_DIM))


def row_attention(w: Weights, m: Tensor, z: Tensor, keep: Tensor) -> Tensor:
    """Algorithm 7."""
    x = norm(w, "norm", m)
    q, k, v, g = (heads(w, name, x) for name in ("q", "k", "v", "output_gate"))
    b = dense(w, "pair_bias", norm(w, "pair_norm", z))
    scores = torch.einsum("sihp,sjhp->hsij", q, k) / HEAD_DIM**0.5 + b.permute(2, 0, 1)[:, None]
    a = scores.masked_fill(~keep[None, :, None], -torch.inf).softmax(-1).nan_to_num()
    return dense(w, "attention.out", (g.sigmoid() * torch.einsum("hsij,sjhp->sihp", a, v)).flatten(2))


def column_attention(w: Weights, m: Tensor, keep: Tensor) -> Tensor:
    """Algorithm 8."""
    x = norm(w, "norm", m)
    q, k, v, g = (heads(w, name, x) for name in ("q", "k", "v", "output_gate"))
    scores = torch.einsum("sihp,tihp->hist", q, k) / HEAD_DIM**0.5
    a = scores.masked_fill(~keep.T[None, :, None], -torch.inf).softmax(-1).nan_to_num()
    return dense(w, "attention.out", (g.sigmoid() * torch.einsum("hist,tihp->sihp", a, v)).flatten(2))


def transition(w: Weights, m: Tensor) -> Tensor:
    """Algorithms 9 and 15."""
    return dense(w, "mlp.down", dense(w, "mlp.up", norm(w, "norm", m)).relu())


def outer_product_mean(w: Weights, m: Tensor, keep: Tensor) -> Tensor:
    """Algorithm 10, with the number of sequences that have both residues, as AlphaFold's code divides."""
    x = norm(w, "norm", m)
    a, b = (dense(w, name, x) * keep[..., None] for name in ("left", "right"))
    products = torch.einsum("sic,sjd->ijcd", a, b).flatten(2)
    count = torch.einsum("si,sj->ij", keep.double(), keep.double())
    return dense(w, "out", products) / (count[..., None] + 1e-3)
