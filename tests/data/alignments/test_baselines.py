"""Mutual information and mean-field direct coupling analysis, on cases whose values are known."""

import itertools
import math

import pytest
import torch

from zoo.data.alignments.baselines import (
    average_product_correction,
    frequencies,
    mean_field_couplings,
    mean_field_dca,
    mutual_information,
    sequence_weights,
)


def test_similar_sequences_share_their_weight():
    msa = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 2, 3, 5], [0, 1, 2, 6, 5], [9, 9, 9, 9, 9]])
    assert sequence_weights(msa, 0.8).tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 2, 1])
    assert sequence_weights(msa, 1.0).tolist() == [1, 1, 1, 1]
    assert sequence_weights(torch.zeros(3, 4, dtype=torch.long)).tolist() == pytest.approx([1 / 3] * 3)


def test_mutual_information_of_copies_and_independent_columns():
    pairs = list(itertools.product(range(4), range(4)))
    msa = torch.tensor([[a, a, b] for a, b in pairs])
    found = mutual_information(msa, identity=1.1, pseudocount=0.0, corrected=False)
    assert found[0, 1].item() == pytest.approx(math.log(4)) and found[0, 2].item() == pytest.approx(0, abs=1e-12)
    assert torch.equal(found, found.T) and (found.diag() == 0).all()
    # An unknown residue and a gap are one state.
    same = torch.tensor([[20, 21], [21, 20], [3, 4], [3, 4]])
    assert mutual_information(same, identity=1.1, pseudocount=0.0, corrected=False)[0, 1].item() == pytest.approx(
        math.log(2))  # fmt: skip


def test_pseudocount_is_a_fraction_of_all_states():
    msa = torch.tensor([[0, 1], [0, 2]])
    single, pairs = frequencies(msa, torch.ones(2, dtype=torch.float64), 0.5)
    assert single[0, 0].item() == pytest.approx(0.5 + 0.5 / 21)
    assert single[1, 1].item() == pytest.approx(0.25 + 0.5 / 21)
    assert pairs[0, 1, 0, 1].item() == pytest.approx(0.25 + 0.5 / 441)
    assert torch.allclose(pairs.sum((2, 3)), torch.ones(2, 2, dtype=torch.float64))
    assert torch.allclose(pairs[0, 0], single[0].diag())
    assert torch.allclose(pairs.sum(3), single[:, None].expand(2, 2, 21))


def test_average_product_correction_of_a_product_is_zero():
    factor = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    scores = factor[:, None] * factor
    rows = (scores.sum(1) - scores.diag()) / 3
    corrected = average_product_correction(scores)
    expected = scores - rows[:, None] * rows / rows.mean()
    assert torch.allclose(corrected, expected.fill_diagonal_(0))
    constant = average_product_correction(torch.ones(5, 5, dtype=torch.float64))
    assert constant.abs().max() < 1e-12
    assert (average_product_correction(torch.zeros(3, 3)) == 0).all()


def test_mean_field_couplings_invert_the_covariance():
    """Of two columns, by hand: C = [[A, B], [B^T, D]], and the coupling is minus a block of its inverse."""
    msa = torch.randint(0, 3, (50, 2), generator=torch.Generator().manual_seed(0))
    single, pairs = frequencies(msa, sequence_weights(msa, 1.1), 0.5)
    (left, right), both = single[:, :-1], pairs[0, 1, :-1, :-1]
    a, d = left.diag() - left.outer(left), right.diag() - right.outer(right)
    b = both - left.outer(right)
    block = -torch.linalg.inv(a) @ b @ torch.linalg.inv(d - b.T @ torch.linalg.inv(a) @ b)
    couplings = mean_field_couplings(msa, identity=1.1)
    assert torch.allclose(couplings[0, 1, :-1, :-1], -block, rtol=1e-8)
    assert torch.allclose(couplings[1, 0], couplings[0, 1].T) and (couplings[0, 0] == 0).all()
    assert (couplings[0, 1, -1] == 0).all()


def test_direct_coupling_tells_direct_from_indirect_correlation():
    """A chain 0 - 1 - 2: columns 0 and 2 are correlated through column 1 alone, a fourth column is independent."""
    generator = torch.Generator().manual_seed(1)
    columns = [torch.randint(0, 20, (4000,), generator=generator)]
    for _ in range(2):
        kept = torch.rand(4000, generator=generator) < 0.7
        columns.append(torch.where(kept, columns[-1], torch.randint(0, 20, (4000,), generator=generator)))
    msa = torch.stack([*columns, torch.randint(0, 20, (4000,), generator=generator)], 1)
    information = mutual_information(msa, identity=1.1, corrected=False)
    strength = mean_field_dca(msa, identity=1.1, pseudocount=0.1, corrected=False)
    assert information[0, 2] > 0.25 * information[0, 1]
    assert strength[0, 2] / strength[0, 1] < 0.6 * information[0, 2] / information[0, 1]
    assert strength[0, 2] < 0.2 * strength[0, 1]
    assert information[0, 3] < 0.1 * information[0, 2]


def test_what_is_no_alignment_is_refused():
    for wrong, message in (
        (torch.zeros(3, 4), "expected whole numbers"),
        (torch.zeros(3, dtype=torch.long), "a row for each sequence"),
        (torch.full((2, 3), 22), "residues 22 to 22: expected 0 to 21"),
    ):
        with pytest.raises(ValueError, match=message):
            mutual_information(wrong)
