"""The Evoformer: parity of its parts with ESMFold, with formulas of the paper, and of whole blocks with openfold3."""

import importlib.util
from itertools import combinations

import pytest
import torch
from evoformer_peers import (
    CONFIG,
    OPENFOLD3,
    TRIANGLE_ATTENTION,
    TRIANGLE_MULTIPLICATION,
    column_attention,
    esmfold_part,
    openfold3_blocks,
    outer_product_mean,
    row_attention,
    transition,
)
from peers import error, randomize
from torch import Tensor, nn

import zoo
from zoo.models.evoformer.block import EvoformerBlock
from zoo.models.mapping.tensors import export_tensors, import_tensors

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
PARTS = {
    "attention starting": ("triangle_starting", TRIANGLE_ATTENTION),
    "attention ending": ("triangle_ending", TRIANGLE_ATTENTION),
    "multiplication outgoing": ("triangle_outgoing", TRIANGLE_MULTIPLICATION),
    "multiplication incoming": ("triangle_incoming", TRIANGLE_MULTIPLICATION),
}


def block() -> EvoformerBlock:
    made = EvoformerBlock(CONFIG, 0).eval()
    randomize(made)
    return made


def alignment(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """msa [2, 5, 7, 16], pair [2, 7, 7, 16], real residues of the alignment [2, 5, 7] and real pairs [2, 7, 7]."""
    draw = torch.Generator().manual_seed(0)
    msa = torch.randn(2, 5, 7, 16, generator=draw, dtype=torch.float64).to(dtype)
    pair = torch.randn(2, 7, 7, 16, generator=draw, dtype=torch.float64).to(dtype)
    residues, rows = torch.ones(2, 7, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool)
    residues[1, 5:], rows[1, 3:] = False, False
    keep = rows[:, :, None] & residues[:, None]
    keep[0, 2, 3] = False  # one residue of one sequence
    return msa, pair, keep, residues[:, :, None] & residues[:, None]


def load_part(part: nn.Module, table: str, theirs: nn.Module) -> None:
    found, report = import_tensors(table, part.state_dict(), theirs.state_dict())
    assert not (report.initialized or report.dropped)
    part.load_state_dict(found)


def swapped(table: str) -> list[str]:
    """The table with the right sides of each two lines exchanged."""
    rows = [[side.strip() for side in row.split("=")] for row in table.splitlines() if "=" in row]
    result = []
    for i, j in combinations(range(len(rows)), 2):
        changed = [list(row) for row in rows]
        changed[i][1], changed[j][1] = rows[j][1], rows[i][1]
        result.append("\n".join(" = ".join(row) for row in changed))
    return result


@pytest.mark.parametrize("name", PARTS)
@torch.no_grad()
def test_triangles_compute_what_esmfold_computes(name):
    attribute, table = PARTS[name]
    part, theirs = getattr(block(), attribute), esmfold_part(name)
    load_part(part, table, theirs)
    assert export_tensors(table, part.state_dict()).keys() == theirs.state_dict().keys()
    for dtype, tolerance in TOLERANCE.items():
        _, pair, _, keep = alignment(dtype)
        part.to(dtype), theirs.to(dtype)
        expected = pair + theirs(pair, keep.to(dtype))
        assert error(part(pair, keep)[keep], expected[keep]) <= tolerance
        assert error(part(pair[:1], None), pair[:1] + theirs(pair[:1])) <= tolerance
    caught = 0
    for other in swapped(table):
        try:
            load_part(part, other, theirs)
        except zoo.LoadError:
            continue
        assert error(part(pair, keep)[keep], expected[keep]) > 1e-4, other
        caught += 1
    assert caught >= (4 if "attention" in name else 15)


@torch.no_grad()
def test_parts_of_the_alignment_compute_the_formulas_of_the_paper():
    whole = block().double()
    msa, pair, keep, _ = alignment()
    formulas = {
        "row_attention": lambda w, b: (msa[b], row_attention(w, msa[b], pair[b], keep[b])),
        "column_attention": lambda w, b: (msa[b], column_attention(w, msa[b], keep[b])),
        "msa_transition": lambda w, b: (msa[b], transition(w, msa[b])),
        "outer_product_mean": lambda w, b: (pair[b], outer_product_mean(w, msa[b], keep[b])),
        "pair_transition": lambda w, b: (pair[b], transition(w, pair[b])),
    }
    inputs = {
        "row_attention": (msa, pair, keep), "column_attention": (msa, keep), "msa_transition": (msa,),
        "outer_product_mean": (pair, msa, keep), "pair_transition": (pair,),
    }  # fmt: skip
    for name, formula in formulas.items():
        part = getattr(whole, name)
        weights = dict(part.named_parameters())
        expected = torch.stack([sum(formula(weights, b)) for b in range(2)])
        assert error(part(*inputs[name]), expected) <= 1e-9, name
        for one, other in combinations(weights, 2):  # the formula tells parameters of one shape from each other
            if weights[one].shape == weights[other].shape:
                changed = weights | {one: weights[other], other: weights[one]}
                assert error(torch.stack([sum(formula(changed, b)) for b in range(2)]), expected) > 1e-4, (one, other)
        part.float()
        single = [x if x.dtype == torch.bool else x.float() for x in inputs[name]]
        assert error(part(*single).double(), expected) <= 1e-5, name


@pytest.mark.skipif(importlib.util.find_spec("openfold3") is None, reason="openfold3 is not installed")
@torch.no_grad()
def test_blocks_compute_what_openfold3_computes():
    theirs, ours = openfold3_blocks(2), [block(), block()]
    for dtype, tolerance in TOLERANCE.items():
        m, z, keep, pairs = alignment(dtype)
        expected_m, expected_z = m, z
        for mine, other in zip(ours, theirs, strict=True):
            load_part(mine, OPENFOLD3, other)
            mine.to(dtype), other.to(dtype)
            m, z = mine(m, z, (keep, pairs))
            expected_m, expected_z = other(expected_m, expected_z, keep.to(dtype), pairs.to(dtype), _mask_trans=False)
        assert error(m[keep], expected_m[keep]) <= tolerance and error(z[pairs], expected_z[pairs]) <= tolerance
    single = ours[0], theirs[0]
    m, z, keep, pairs = alignment()
    expected = single[1](m, z, keep.double(), pairs.double(), _mask_trans=False)
    caught = 0
    for other in swapped(OPENFOLD3)[::7]:
        try:
            load_part(single[0], other, single[1])
        except zoo.LoadError:
            continue
        found = single[0](m, z, (keep, pairs))
        assert max(error(found[0][keep], expected[0][keep]), error(found[1][pairs], expected[1][pairs])) > 1e-5, other
        caught += 1
    assert caught > 30
