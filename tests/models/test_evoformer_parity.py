"""The Evoformer: parity of its parts with ESMFold, with formulas of the paper, and of whole blocks with openfold3."""

import importlib.util
import re
from itertools import combinations
from pathlib import Path

import pytest
import torch
from evoformer_peers import (
    CONFIG,
    SIZES,
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
from table_swaps import check_swaps
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


OTHERS = {"evoformer.linear.weight": (4, 16), "structure_module.ipa.linear_q.weight": (4, 4), "aux_heads.tm.bias": (2,)}


def openfold_file(path: Path, tensors: dict[str, Tensor]) -> Path:
    """A file with blocks, and what else the files of an AlphaFold 2 have."""
    others = {name: torch.zeros(shape) for name, shape in OTHERS.items()}
    torch.save({f"evoformer.blocks.{name}": x for name, x in tensors.items()} | others, path)
    return path


def outputs(model: zoo.Model, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Real residues of the alignment and real pairs after the blocks, and both as one row."""
    m, z, keep, pairs = alignment(dtype)
    m, z, _ = model.to(dtype).blocks(m, z, (keep, pairs))
    return m[keep], z[pairs], torch.cat([m[keep].flatten(), z[pairs].flatten()])


@pytest.mark.skipif(importlib.util.find_spec("openfold3") is None, reason="openfold3 is not installed")
@torch.no_grad()
def test_files_with_openfold3_blocks_compute_what_they_compute(tmp_path, capsys):
    """Read from a file and written again, for openfold3 to read."""
    theirs = openfold3_blocks(2)
    path = openfold_file(tmp_path / "theirs.pt", theirs.state_dict())
    ours = zoo.load(path)
    assert "structure_module.ipa.linear_q.weight" in ours.load_report.dropped
    assert all(name.startswith("residues.") for name in ours.load_report.initialized)
    assert "the embeddings of residues are new" in capsys.readouterr().err
    zoo.export(ours, tmp_path / "ours", format="openfold")
    again = torch.load(tmp_path / "ours" / "openfold.pt", weights_only=True)
    spelled = {"transition.linear_1.": "transition.transition_mlp.layers.0.0.",
               "transition.linear_2.": "transition.transition_mlp.linear_out.",
               "tri_att_start.linear.": "tri_att_start.linear_z.",
               "tri_att_end.linear.": "tri_att_end.linear_z.", "evoformer.blocks.": ""}  # fmt: skip
    for old, new in spelled.items():
        again = {name.replace(old, new): x for name, x in again.items()}
    copy = openfold3_blocks(2)
    copy.load_state_dict(again)
    for dtype, tolerance in TOLERANCE.items():
        m, z, keep, pairs = alignment(dtype)
        for block in copy.to(dtype):
            m, z = block(m, z, keep.to(dtype), pairs.to(dtype), _mask_trans=False)
        found = outputs(ours, dtype)
        assert error(found[0], m[keep]) <= tolerance and error(found[1], z[pairs]) <= tolerance
    expected = outputs(ours)[2]
    check_swaps(path, lambda model: outputs(model)[2], expected, 54, within=("blocks.",), step=41)


@torch.no_grad()
def test_names_of_all_versions_of_openfold(tmp_path):
    """Of the present one, and of the first, which published files have; the head for masked residues with them."""
    model = zoo.create_model("evoformer", **SIZES, masked_msa=True, vocab_size=23)
    randomize(model)
    model.eval()
    zoo.export(model, tmp_path / "a", format="openfold")
    stored = torch.load(tmp_path / "a" / "openfold.pt", weights_only=True)
    assert "evoformer.blocks.1.pair_stack.tri_mul_out.linear_a_p.weight" in stored
    assert "evoformer.blocks.1.msa_att_col._msa_att.mha.linear_g.bias" in stored
    first = {}
    for name, x in stored.items():
        changed = re.sub(r"\.(?:pair_stack\.)?(msa_transition|outer_product|tri_|pair_transition)", r".core.\1", name)
        first[changed] = x
    assert sum("core." in name for name in first) == 2 * (6 + 8 + 2 * 16 + 2 * 10 + 6)
    torch.save(first, tmp_path / "first.pt")
    for path in (tmp_path / "a" / "openfold.pt", tmp_path / "first.pt"):
        again = zoo.load(path)
        assert again.config == model.config.replace(head=None, dropout=0.15, pair_dropout=0.25)
        same = {name: x for name, x in model.state_dict().items() if name.startswith(("blocks.", "masked_msa."))}
        assert all(torch.equal(again.state_dict()[name], x) for name, x in same.items()) and len(same) == 188
    contacts = zoo.load(tmp_path / "first.pt", head="contacts")
    assert {"head.proj.weight", "residues.query.weight"} <= set(contacts.load_report.initialized)
    missing = {name: x for name, x in first.items() if "1.core.tri_mul_in.linear_g.bias" not in name}
    torch.save(missing, tmp_path / "missing.pt")
    with pytest.raises(zoo.LoadError, match=r"missing evoformer.blocks.1.pair_stack.tri_mul_in.linear_g.bias"):
        zoo.load(tmp_path / "missing.pt")
    missing = {name: x for name, x in first.items() if "tri_att_start" not in name}
    torch.save(missing, tmp_path / "missing.pt")
    with pytest.raises(zoo.LoadError, match=r"without a usable triangle_starting.pair_bias.weight"):
        zoo.load(tmp_path / "missing.pt")
    with pytest.raises(zoo.LoadError, match="describes itself: omit key="):
        zoo.load(tmp_path / "first.pt", key="model")
    with pytest.raises(ValueError, match="OpenFold cannot express column_attention='linear'"):
        zoo.export(zoo.create_model("evoformer", **SIZES, column_attention="linear"), tmp_path / "b", format="openfold")
