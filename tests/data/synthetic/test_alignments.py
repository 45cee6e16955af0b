"""Synthetic protein families: contact maps, the sampler against exact probabilities, and what the data is like."""

import numpy as np
import pytest
import torch

from zoo.data.alignments.baselines import mutual_information
from zoo.data.synthetic.alignments import (
    GAP,
    PottsModels,
    make_families,
    potts_models,
    shared_coupling,
    with_gaps,
)
from zoo.data.synthetic.contact_maps import MAX_DEGREE, long_range_contacts, make_contact_map


def test_contact_maps_are_sparse_and_symmetric_with_long_lines():
    rng = np.random.default_rng(0)
    maps = [make_contact_map(rng, length) for length in (24, 30, 40, 60) for _ in range(4)]
    for contacts in maps:
        length = len(contacts)
        assert (contacts == contacts.T).all() and not np.triu(contacts & ~np.triu(contacts, 4)).any()
        assert long_range_contacts(contacts) >= length / 4
        assert contacts.sum(1).max() <= MAX_DEGREE + 2 and contacts.mean() < 0.12
    lines = sum((c[1:, :-1] & c[:-1, 1:]).sum() + (c[1:, 1:] & c[:-1, :-1]).sum() for c in maps)
    assert lines > 0.5 * sum(c.sum() for c in maps)
    with pytest.raises(ValueError, match="at least 24"):
        make_contact_map(rng, 20)


def test_gibbs_sampling_has_the_probabilities_of_the_potts_model():
    """Three sites in a chain; all others of the 20 states are suppressed, so that 27 sequences have all probability."""
    generator = torch.Generator().manual_seed(0)
    fields = torch.full((1, 3, 20), -40.0)
    fields[..., :3] = torch.randn(1, 3, 3, generator=generator)
    tables = torch.randn(2, 20, 20, generator=generator)
    neighbors = torch.tensor([[[1, 0], [0, 2], [1, 0]]])
    couplings = torch.zeros(1, 3, 2, 20, 20)
    couplings[0, 0, 0], couplings[0, 1, 0] = tables[0].T, tables[0]
    couplings[0, 2, 0], couplings[0, 1, 1] = tables[1], tables[1].T
    model = PottsModels(fields, neighbors, couplings)
    states = torch.randint(0, 3, (1, 20_000, 3), generator=generator)
    for _ in range(12):
        model.sweep(states, generator)
    grid = torch.cartesian_prod(*[torch.arange(3)] * 3)
    energy = sum(fields[0, i, grid[:, i]] for i in range(3))
    energy = energy + tables[0][grid[:, 0], grid[:, 1]] + tables[1][grid[:, 1], grid[:, 2]]
    found = torch.bincount((states[0] * torch.tensor([9, 3, 1])).sum(-1), minlength=27) / 20_000
    assert (found - energy.softmax(0)).abs().max() < 0.012
    before = states.clone()
    model.sweep(states, generator, 0.2)
    assert 0.05 < (states != before).float().mean() < 0.2


def test_couplings_are_on_contacts_alone_and_equal_from_both_sides():
    contacts = make_contact_map(np.random.default_rng(1), 30)
    model = potts_models([contacts], torch.Generator().manual_seed(0))
    found: dict[tuple[int, int], torch.Tensor] = {}
    for i in range(30):
        for neighbor, table in zip(model.neighbors[0, i].tolist(), model.couplings[0, i]):
            if table.any():
                found[i, neighbor] = table
    assert {(i, j) for i, j in np.argwhere(contacts).tolist()} == set(found)
    assert all(torch.equal(table, found[j, i].T) for (i, j), table in found.items())
    shared = shared_coupling()
    assert torch.allclose(shared, shared.T, atol=1e-6) and shared.mean().abs() < 1e-6
    assert shared[1, 3] > 0 > shared[1, 11]  # arginine sticks to aspartate, and repels lysine


def test_families_have_statistics_of_proteins():
    made = make_families(3, seed=0, depth=32, lengths=(24, 30))
    again = make_families(3, seed=0, depth=32, lengths=(24, 30))
    assert all(torch.equal(a.msa, b.msa) and torch.equal(a.contacts, b.contacts) for a, b in zip(made, again))
    assert not torch.equal(make_families(1, seed=1, depth=32, lengths=(24, 30))[0].contacts, made[0].contacts)
    assert torch.equal(make_families(1, seed=0, depth=32, lengths=(24, 30))[0].msa, made[0].msa)
    for family in made:
        assert family.msa.shape == (32, len(family.contacts)) and (family.msa[0] < 20).all()
        alike = (family.msa[:, None] == family.msa).float().mean(-1)
        near, far = alike[0, 1], alike[0, 31]
        assert near > far + 0.2  # a sister, and one of another ancestor


def test_contacts_have_more_mutual_information_than_others():
    family = make_families(1, seed=2, depth=128, lengths=(30, 30))[0]
    scores = mutual_information(family.msa)
    upper = torch.ones(30, 30, dtype=torch.bool).triu(6)
    inside, outside = scores[upper & family.contacts], scores[upper & ~family.contacts]
    assert inside.mean() > outside.mean() + 1.5 * outside.std()


def test_gaps_spare_the_query():
    msa = with_gaps(torch.zeros(2000, 40, dtype=torch.long), torch.Generator().manual_seed(0))
    assert (msa[0] == 0).all() and set(msa.unique().tolist()) == {0, GAP}
    assert 0.03 < (msa == GAP).float().mean() < 0.06


def test_impossible_families_are_refused():
    with pytest.raises(ValueError, match="depth=100: expected 4 times a power of two"):
        make_families(1, seed=0, depth=100)
    with pytest.raises(ValueError, match="at least 24"):
        make_families(1, seed=0, lengths=(10, 30))
